//! The producer against a real broker and a real database.
//!
//! What counts as a failure: a commit without a check at the broker, a message sent for a transaction
//! that did not commit, a committed transaction that `RequestResend` calls never committed, a
//! transaction left open in the pool. What does not: a check for a transaction that rolled back, a
//! message sent twice.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not what it must be")]

mod stage;

mod flow;
mod identity;

mod rolled_back;

mod refused;

mod destinations;

mod resend;

mod silence;

mod race;

mod sweep;

mod without_store;

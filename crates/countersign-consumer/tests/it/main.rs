//! The consumer against a real broker and a real database.
//!
//! What counts as a failure: a delivery acked without its effect, an effect twice, a message that is
//! neither processed nor in `.dead`, a message that took effect or was rejected and is never
//! confirmed. What does not: a duplicate delivery, a confirm twice, a handler that runs again after
//! its transaction was rolled back.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not what it must be")]

mod effects;

mod world;

mod once;

mod retries;

mod unfit;

mod batches;

mod without_inbox;

mod blocked;

mod bounds;

mod drain;

mod outages;

mod silence;

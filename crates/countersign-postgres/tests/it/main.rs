//! Transactions, migrations, partitions and pools against a real Postgres.
//!
//! What counts as a failure: a written row that vanishes, a transaction left open, a commit that is
//! reported and was none.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not what it must be")]

mod stage;

mod transactions;

mod cancelled;

mod migrations;

mod partitions;

mod outages;

mod silence;

//! The callback service against a real broker and a real Postgres, asking upstreams that answer as
//! each test has it.
//!
//! What counts as a failure: a confirm or a check that was acked without being stored; a message
//! asked for twice within one lease, or with the same attempt twice; an overdue message left open
//! although it is confirmed; an entry harmed by its neighbour. What does not: a resend of a message
//! whose confirm was on its way; entries delivered twice.

#![expect(clippy::unwrap_used, reason = "a failure in a test's helpers is a failure of the test")]

mod stage;

mod blocking;

mod upstream;

mod recording;

mod looking_up;

mod rolled_back;

mod markers;

mod progress;

mod behind;

mod healing;

mod judging;

mod identity;

mod answers;

mod pacing;

mod replicas;

mod quarantine;

mod faults;

mod telling;

mod browsing;

mod acting;

mod job_bounds;
mod jobs;

mod sweeping;

mod constraints;

mod process;

mod memory;

mod explained;

mod silence;

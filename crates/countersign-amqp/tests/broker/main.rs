//! The crate against a real broker.
//!
//! A failure is: a verdict that the queues do not bear out; a verdict that does not come; an acked
//! message that comes again, or an un-acked one that does not; an entry of a batcher that keeps
//! trying and is in no queue in the end. Not a failure: a message twice in a queue after its first
//! verdict was `Unknown`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

mod verdicts;

mod outages;

mod alarms;

mod topologies;

mod batches;

mod consuming;

mod browsing;

mod encryption;

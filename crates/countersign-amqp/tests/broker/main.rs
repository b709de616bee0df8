//! The crate against a real broker.
//!
//! A failure is: an outcome that the queues do not bear out; an outcome that does not come; an
//! acked message that comes again, or an un-acked one that does not; an entry of a batcher that
//! keeps trying and is in no queue in the end. Not a failure: a message twice in a queue after its
//! first outcome was `Unknown`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

mod outcomes;

mod outages;

mod destinations;

mod alarms;

mod topologies;

mod batches;

mod consuming;

mod counting;

mod gauging;

mod browsing;

mod encryption;

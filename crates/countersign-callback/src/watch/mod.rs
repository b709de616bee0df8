//! What is known beyond one row: where confirms are, what queues hold, how far consumers are.

pub(crate) mod markers;

pub(crate) mod depths;

pub(crate) mod consumers;

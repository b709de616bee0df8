//! Facts beyond one row: how far confirms are recorded, how many messages queues hold, how far consumers
//! are.

pub(crate) mod markers;

pub(crate) mod depths;

pub(crate) mod consumers;

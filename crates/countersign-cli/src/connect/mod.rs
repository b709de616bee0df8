//! Reaching the callback service, an upstream and the broker.

pub(crate) mod address;
pub(crate) mod broker;
pub(crate) mod callback;
pub(crate) mod credentials;

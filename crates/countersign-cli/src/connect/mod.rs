//! Where the callback service and the broker are, and how they are reached.

pub(crate) mod address;

pub(crate) mod callback;

pub(crate) mod broker;

pub(crate) mod credentials;

//! Sending: arm the check, enlist in the transaction, commit, publish.

pub(crate) mod publisher;

pub(crate) mod in_flight;

pub(crate) mod arm;

pub(crate) mod enlist;

pub(crate) mod committed;

pub(crate) mod rolled_back;

//! Sending: arm the check, enlist in the transaction, commit, publish.

pub(crate) mod arm;
pub(crate) mod armed;
pub(crate) mod batch;
pub(crate) mod checks;
pub(crate) mod committed;
pub(crate) mod destinations;
pub(crate) mod enlist;
pub(crate) mod in_flight;
pub(crate) mod publisher;
pub(crate) mod rolled_back;

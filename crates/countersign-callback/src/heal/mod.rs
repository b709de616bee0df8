//! From the ledger to the upstreams: overdue messages are judged and asked for.

pub(crate) mod resend;

pub(crate) mod upstreams;

pub(crate) mod recent_checks;

pub(crate) mod jobs;

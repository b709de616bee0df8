//! What is decided. Nothing here knows a clock, a database, a broker or a network.

pub(crate) mod states;

pub(crate) mod cause;

pub(crate) mod origin;
pub(crate) mod overdue;

pub(crate) mod verdict;

pub(crate) mod backlog;

pub(crate) mod passing;

pub(crate) mod upstream_answer;

pub(crate) mod budget;

pub(crate) mod breaker;

pub(crate) mod gate;

pub(crate) mod job;

pub(crate) mod filter;

pub(crate) mod new_job;

#[cfg(test)]
mod fixture;

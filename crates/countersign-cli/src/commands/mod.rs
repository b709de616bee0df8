//! The commands, a file or folder each.

// About one message, or those that match.
pub(crate) mod overdue;
pub(crate) mod status;
mod timeline;

// Changing something, and the job that does it.
pub(crate) mod act;
mod job;
pub(crate) mod jobs;

// About the parties.
pub(crate) mod ask;
pub(crate) mod consumers;
pub(crate) mod upstreams;

// Past the callback service.
pub(crate) mod doctor;
pub(crate) mod quarantine;

// Shared by these.
mod filter;
mod states;

//! The commands, one file or folder each.

pub(crate) mod status;

pub(crate) mod timeline;

pub(crate) mod overdue;

pub(crate) mod acting;

pub(crate) mod jobs;

pub(crate) mod job;

pub(crate) mod parties;

pub(crate) mod quarantine;

pub(crate) mod doctor;

pub(crate) mod ask;

pub(crate) mod filter;

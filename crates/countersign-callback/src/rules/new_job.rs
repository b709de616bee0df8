//! A job that an operator asks for, and the messages that it is about.

use countersign_protocol::MessageId;
use uuid::Uuid;

use crate::rules::filter::Filter;
use crate::rules::job::Action;

/// A job that an operator asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NewJob {
    /// Chosen by the caller, or else by the replica that takes the request.
    pub(crate) id: Uuid,
    /// What the job does about each message.
    pub(crate) action: Action,
    /// The messages.
    pub(crate) selection: Selection,
    /// The operator. Empty only for a dry run.
    pub(crate) who: String,
    /// The operator's reason. Empty only for a dry run.
    pub(crate) why: String,
    /// The most items begun in a second; no limit if there is none.
    pub(crate) rate: Option<f64>,
    /// How many items may be begun in all at first; 0: all.
    pub(crate) step: u64,
    /// Whether the operator only wants to know how many messages it would be.
    pub(crate) dry_run: bool,
}

/// The messages that a job is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// These.
    Ids(Vec<MessageId>),
    /// All that match when the job is created.
    Matching(Filter),
}

impl Selection {
    /// The selection as the job's row keeps it for operators.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Ids(ids) => format!("{} ids", ids.len()),
            Self::Matching(filter) => filter.text(),
        }
    }
}

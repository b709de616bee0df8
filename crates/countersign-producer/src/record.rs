//! The contents of `countersign.enlisted`.

use countersign_protocol::{DatabaseId, MessageId, Name};

/// The table's record of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Absent,
    /// A transaction with this id committed.
    Enlisted,
    /// No transaction with this id has committed, and none ever can.
    Fenced,
    /// Another upstream of the same database has the id.
    OfAnother,
}

/// Whose records are meant: an upstream's, in the database that its transactions commit in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) upstream: Name,
    pub(crate) database: DatabaseId,
}

/// A committed message, as the sweep looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnlistedMessage {
    pub(crate) id: MessageId,
    /// The consumers that had to confirm the message when it was enlisted. Empty if the row does
    /// not say.
    pub(crate) consumers: Vec<Name>,
}

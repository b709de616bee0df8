//! The contents of `countersign.enlisted`.

use countersign_protocol::{MessageId, Name};

/// The table's record of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Absent,
    /// A transaction with this id committed.
    Enlisted,
    /// No transaction with this id has committed, and none ever can.
    Fenced,
}

/// A committed message, as the sweep looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnlistedMessage {
    pub(crate) id: MessageId,
    /// The consumers that had to confirm the message when it was enlisted. Empty if the row does
    /// not say.
    pub(crate) consumers: Vec<Name>,
}

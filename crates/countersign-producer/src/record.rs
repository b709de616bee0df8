//! What `countersign.enlisted` says.

use countersign_protocol::{MessageId, Name};

/// What the table says of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Absent,
    /// A transaction with this id committed.
    Enlisted,
    /// No transaction with this id did, and none ever can.
    Fenced,
}

/// A committed message, as the sweep looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnlistedMessage {
    pub(crate) id: MessageId,
    /// The consumers that had to confirm it when it was enlisted. Empty if that was not written
    /// down.
    pub(crate) consumers: Vec<Name>,
}

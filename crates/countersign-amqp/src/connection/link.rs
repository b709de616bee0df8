//! The state of a connection, as its users see it.

/// The state of a [`Connection`](crate::Connection).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The connection is down, and the supervisor tries again and again.
    Connecting {
        /// The last failure, or the step that is under way.
        why: String,
    },
    /// The broker is connected and the topology is declared.
    Up,
    /// The broker is connected, but a resource alarm keeps it from taking messages.
    Blocked {
        /// The broker's reason.
        why: String,
    },
    /// [`Connection::close`](crate::Connection::close) closed the connection for good.
    Closed,
}

impl LinkState {
    /// Why a publisher can send nothing in this state; `None` when it can.
    #[must_use]
    pub fn away(&self) -> Option<String> {
        match self {
            Self::Up => None,
            Self::Connecting { why } => Some(format!("not connected: {why}")),
            Self::Blocked { why } => Some(format!("blocked by the broker: {why}")),
            Self::Closed => Some("closed".to_owned()),
        }
    }
}

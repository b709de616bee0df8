//! What can be said of a connection at a moment.

/// The state of a [`Connection`](crate::Connection).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not connected; being tried again and again.
    Connecting {
        /// What failed last, or what is being done.
        why: String,
    },
    /// Connected, topology declared.
    Up,
    /// Connected, but the broker takes no messages from it: a resource alarm.
    Blocked {
        /// What the broker says.
        why: String,
    },
    /// Closed by [`Connection::close`](crate::Connection::close), for good.
    Closed,
}

impl LinkState {
    /// Why nothing can be published in this state; `None` when something can.
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

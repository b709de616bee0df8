//! Why an epoch ended or did not come about. Callers outside cannot act on the difference: the log
//! and [`LinkState`](crate::LinkState) show it to people.

use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use thiserror::Error;

#[derive(Clone, Debug, Error)]
pub(crate) enum Error {
    #[error("{what} took longer than {after:?}")]
    TimedOut { what: &'static str, after: Duration },

    #[error("{0}")]
    Client(#[from] lapin::Error),

    #[error(
        "{what} stands in the broker with other settings ({cause}): if nothing else relies on it, \
         empty and delete it, and it is declared anew; otherwise choose the settings it has"
    )]
    DeclaredOtherwise { what: String, cause: lapin::Error },

    #[error("{what} cannot be declared: {cause}")]
    NotDeclared { what: String, cause: lapin::Error },

    #[error("{what:?} is longer than the 255 bytes that AMQP allows")]
    NameTooLong { what: String },

    #[error("the consumer of queue {queue} was cancelled by the broker: was the queue deleted?")]
    Cancelled { queue: String },

    #[error("queue {queue}: {cause}")]
    Consuming { queue: String, cause: lapin::Error },

    #[error(
        "no confirm of {missing} of {of} messages within {after:?}: has a queue lost its leader?"
    )]
    Unconfirmed { missing: usize, of: usize, after: Duration },

    #[error("{why}")]
    EpochEnded { why: String },

    #[error("the broker answered a publish without a confirm")]
    ConfirmsOff,
}

/// What the broker has closed a channel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// There is no such exchange (404).
    NoExchange,
    /// The user may not write to the exchange, or not with this key (403).
    NoRight,
    /// The message itself: its size or a property (406).
    Message,
}

impl Error {
    /// Whether the broker gave this reason to close a channel, and not the connection.
    pub(crate) fn is_of_channel(&self) -> bool {
        matches!(self, Self::Client(error) if error.is_amqp_soft_error())
    }

    /// Why the broker does not take a message, if it closed the channel for that.
    pub(crate) fn refusal(&self) -> Option<(Cause, String)> {
        let Self::Client(error) = self else { return None };
        let ErrorKind::ProtocolError(error) = error.kind() else { return None };
        let cause = match error.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Cause::NoExchange,
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Cause::NoRight,
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Cause::Message,
            _ => return None,
        };
        Some((cause, format!("{} ({})", error.get_message(), error.get_id())))
    }
}

/// Bounds an operation that may hang. `what` names the operation in the error.
pub(crate) async fn within<T, E: Into<Error>>(
    after: Duration,
    what: &'static str,
    operation: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    match tokio::time::timeout(after, operation).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(Error::TimedOut { what, after }),
    }
}

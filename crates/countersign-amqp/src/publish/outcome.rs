//! What became of a message, or why it was not even taken.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use thiserror::Error;
use tokio::sync::oneshot;

/// What the broker did with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It stands in every queue that it was routed to.
    Routed,
    /// It went to no queue, and never will as it is: nothing is bound for it, or AMQP cannot say it.
    Unroutable {
        /// What the broker says.
        why: String,
    },
    /// A queue that it was routed to did not take it: full, most likely. Another may have.
    Refused,
    /// Nobody knows: it may be in the broker or not. Publish it again with the same id.
    Unknown {
        /// What happened instead of an answer.
        why: String,
    },
}

/// Why a message or an entry was not taken. Nothing of it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotTaken {
    /// As much is waiting as may wait.
    #[error("overloaded: as much is waiting for the broker as may wait")]
    Overloaded,
    /// The broker is not connected, or blocks publishers.
    #[error("the broker is away: {why}")]
    Away {
        /// What is the matter.
        why: String,
    },
    /// The body has this many bytes, more than the publisher takes.
    #[error("body of {0} bytes: more than is published here")]
    TooLarge(usize),
    /// [`close`](crate::Publisher::close) was called.
    #[error("closed")]
    Closed,
}

/// A [`PublishOutcome`] to come.
///
/// # Cancel safety
/// Dropping it does not withdraw the message; it is published all the same.
#[derive(Debug)]
#[must_use = "only the outcome says whether the broker has the message"]
pub struct Pending(Inner);

#[derive(Debug)]
enum Inner {
    Waiting(oneshot::Receiver<PublishOutcome>),
    Known(Option<PublishOutcome>),
}

impl Pending {
    pub(crate) fn new() -> (oneshot::Sender<PublishOutcome>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(Inner::Waiting(receiver)))
    }

    pub(crate) fn known(outcome: PublishOutcome) -> Self {
        Self(Inner::Known(Some(outcome)))
    }
}

impl Future for Pending {
    type Output = PublishOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<PublishOutcome> {
        match &mut self.0 {
            Inner::Waiting(receiver) => Pin::new(receiver).poll(context).map(|outcome| {
                outcome.unwrap_or_else(|_| PublishOutcome::Unknown { why: "given up".to_owned() })
            }),
            Inner::Known(outcome) => {
                Poll::Ready(outcome.take().expect("a future is not polled after it is ready"))
            }
        }
    }
}

//! What became of a message, or why the publisher did not take it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use thiserror::Error;
use tokio::sync::oneshot;

/// What the broker did with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The message stands in every queue that it was routed to.
    Routed,
    /// The message went to no queue, and as it is never will: no queue is bound for it, or AMQP
    /// cannot express it.
    Unroutable {
        /// The broker's reason.
        why: String,
    },
    /// A queue that the message was routed to did not take it: most likely the queue is full.
    /// Another queue may have taken it.
    Refused,
    /// The broker may have the message or not. Publish it again with the same id.
    Unknown {
        /// What happened instead of an answer.
        why: String,
    },
}

/// Why a publisher or a batcher did not take a message or an entry. Nothing of it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotTaken {
    /// As many messages or bytes wait for the broker as may wait.
    #[error("overloaded: as many messages wait for the broker as may")]
    Overloaded,
    /// The broker is not connected, or blocks publishers.
    #[error("the broker is away: {why}")]
    Away {
        /// Why the broker is away.
        why: String,
    },
    /// The body has this many bytes, more than the publisher takes.
    #[error("body of {0} bytes: more than this publisher takes")]
    TooLarge(usize),
    /// The caller has called [`close`](crate::Publisher::close).
    #[error("closed")]
    Closed,
}

/// The [`PublishOutcome`] of a message, once it is known.
///
/// # Cancel safety
/// Dropping it does not withdraw the message; the publisher sends it all the same.
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

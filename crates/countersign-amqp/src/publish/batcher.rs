//! Batching without a timer: entries that arrive while a message is on its way share the next one.

use std::sync::Arc;
use std::time::Duration;

use countersign_retry::{Backoff, LogLimit};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::connection::link::LinkState;
use crate::publish::Publisher;
use crate::publish::message::Outgoing;
use crate::publish::outcome::{NotTaken, Pending, PublishOutcome};
use crate::publish::waiting::{Batch, Limits, Owed, Waiting, Way};

/// How a [`Batcher`] batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatcherSettings {
    /// How many entries one message holds at most, at least 1. Default: 1,000, the most that an
    /// envelope of the wire contract may hold.
    pub max_entries: usize,
    /// How many entries may be without an outcome; further ones are [`NotTaken::Overloaded`]. With
    /// [`OnFailure::KeepTrying`], this many entries outlast the broker's absence. Default: 100,000.
    pub max_waiting: usize,
    /// What to do when a message is not routed. Default: [`OnFailure::Report`].
    pub on_failure: OnFailure,
}

/// What a [`Batcher`] does with a message that was not [`Routed`](PublishOutcome::Routed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Reports the message's outcome as the outcome of its entries. The batcher takes no entries
    /// while the broker is away.
    Report,
    /// Publishes the message again, with growing delays and across reconnects, until it is routed.
    /// The batcher takes entries while the broker is away, up to the limit.
    KeepTrying,
}

impl Default for BatcherSettings {
    fn default() -> Self {
        Self { max_entries: 1_000, max_waiting: 100_000, on_failure: OnFailure::Report }
    }
}

/// Lets entries share messages. A clone is the same batcher.
///
/// One message is on its way at a time; entries that arrive meanwhile leave in the next. So an
/// entry that comes alone leaves at once, and under load messages grow by themselves. Dropping the
/// last clone closes the batcher, which still publishes the entries it has taken.
#[derive(Debug)]
pub struct Batcher<E>(Arc<Handle<E>>);

#[derive(Debug)]
struct Handle<E> {
    waiting: Arc<Waiting<E>>,
    link: watch::Receiver<LinkState>,
    on_failure: OnFailure,
    abandon: CancellationToken,
}

impl<E> Clone for Batcher<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E> Drop for Handle<E> {
    fn drop(&mut self) {
        self.waiting.close();
    }
}

impl<E: Send + 'static> Batcher<E> {
    /// Starts a batcher that publishes the messages that `pack` makes of one or more entries.
    ///
    /// When `pack` makes a message larger than a body may be, the batcher packs its entries again
    /// in halves.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(
        publisher: Publisher,
        settings: BatcherSettings,
        pack: impl Fn(&[E]) -> Outgoing + Send + 'static,
    ) -> Self {
        let BatcherSettings { max_entries, max_waiting, on_failure } = settings;
        let waiting = Waiting::new(Limits { entries: max_waiting, bytes: usize::MAX });
        let most = Limits { entries: max_entries.max(1), bytes: usize::MAX };
        let abandon = CancellationToken::new();
        let link = publisher.link();
        let packer = Packer { publisher, on_failure, pack, log_limit: LogLimit::new() };
        // If `pack` panics, the callers hear of it instead of waiting for a task that has ended.
        let end = CloseAtEnd(Arc::clone(&waiting));
        let work = async move {
            packer.run(&end.0, most).await;
        };
        tokio::spawn(abandon.clone().run_until_cancelled_owned(work));
        Self(Arc::new(Handle { waiting, link, on_failure, abandon }))
    }

    /// Hands an entry over. The call never waits. The entry's outcome is that of the message it
    /// leaves in.
    ///
    /// # Errors
    /// When the batcher cannot take the entry; nothing of it was sent. With
    /// [`OnFailure::KeepTrying`] the broker's absence is no such reason.
    pub fn submit(&self, entry: E) -> Result<Pending, NotTaken> {
        let Handle { waiting, link, on_failure, .. } = &*self.0;
        waiting.push(Way::Together, entry, 0, || match on_failure {
            OnFailure::Report => link.borrow().away(),
            OnFailure::KeepTrying => None,
        })
    }

    /// The state of the batcher's connection, now and from now on.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.0.link.clone()
    }

    /// Takes no further entries, and waits until every entry taken has its outcome. After
    /// `deadline` the rest is [`Unknown`](PublishOutcome::Unknown). The publisher stays open.
    ///
    /// # Cancel safety
    /// The batcher takes no further entries even if this future is dropped.
    pub async fn close(&self, deadline: Duration) {
        self.0.waiting.close();
        if timeout(deadline, self.0.waiting.finished()).await.is_err() {
            self.0.abandon.cancel();
            self.0.waiting.finished().await;
        }
    }
}

struct CloseAtEnd<E>(Arc<Waiting<E>>);

impl<E> Drop for CloseAtEnd<E> {
    fn drop(&mut self) {
        self.0.close();
        self.0.give_up(|| Some("closed before it was published".to_owned()));
    }
}

/// The one task that packs entries into messages and sees the messages through.
struct Packer<P> {
    publisher: Publisher,
    on_failure: OnFailure,
    pack: P,
    log_limit: LogLimit,
}

impl<P> Packer<P> {
    async fn run<E>(mut self, waiting: &Arc<Waiting<E>>, most: Limits)
    where
        P: Fn(&[E]) -> Outgoing,
    {
        while let Some(Batch { items, owed }) = waiting.take(Way::Together, most).await {
            self.publish(items, owed).await;
        }
    }

    /// Publishes entries in as few messages as can hold them.
    async fn publish<E>(&mut self, entries: Vec<E>, owed: Owed<E>)
    where
        P: Fn(&[E]) -> Outgoing,
    {
        let mut parts = vec![(entries, owed)];
        while let Some((mut entries, mut owed)) = parts.pop() {
            match self.see_through((self.pack)(&entries)).await {
                Ok(outcome) => owed.settle_all(outcome),
                Err(bytes) if entries.len() > 1 => {
                    let half = entries.len() / 2;
                    warn!(bytes, entries = entries.len(), "too large a message: packed in halves");
                    let second = (entries.split_off(half), owed.split_off(half));
                    parts.push(second);
                    parts.push((entries, owed));
                }
                Err(bytes) => {
                    let why = NotTaken::TooLarge(bytes).to_string();
                    owed.settle_all(PublishOutcome::Unroutable { why });
                }
            }
        }
    }

    /// Publishes a message, with [`OnFailure::KeepTrying`] again and again. `Err` holds the body's
    /// size when that is too large.
    async fn see_through(&mut self, message: Outgoing) -> Result<PublishOutcome, usize> {
        let mut backoff = Backoff::new();
        loop {
            let outcome = match self.publisher.publish(message.clone()) {
                Ok(pending) => pending.await,
                Err(NotTaken::TooLarge(bytes)) => return Err(bytes),
                Err(NotTaken::Closed) => {
                    return Ok(PublishOutcome::Unknown {
                        why: "the publisher was closed".to_owned(),
                    });
                }
                Err(not_taken) => PublishOutcome::Unknown { why: not_taken.to_string() },
            };
            if outcome == PublishOutcome::Routed {
                if self.log_limit.recovered() {
                    info!(exchange = message.exchange, key = message.key, "published after all");
                }
                return Ok(outcome);
            }
            let closed = *self.publisher.link().borrow() == LinkState::Closed;
            if closed || self.on_failure == OnFailure::Report {
                return Ok(outcome);
            }
            if self.log_limit.admits(&format!("{outcome:?}")) {
                warn!(
                    exchange = message.exchange,
                    key = message.key,
                    ?outcome,
                    "not published; trying again and again"
                );
            }
            sleep(backoff.next_pause()).await;
            until_there(self.publisher.link()).await;
        }
    }
}

async fn until_there(mut link: watch::Receiver<LinkState>) {
    // An error means that the connection was closed: the publisher will say so.
    let there = |state: &LinkState| matches!(state, LinkState::Up | LinkState::Closed);
    let _ = link.wait_for(there).await;
}

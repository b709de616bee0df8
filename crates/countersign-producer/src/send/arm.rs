//! Arming: the check goes to the broker before anything else happens.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_amqp::{NotTaken, Pending, PublishOutcome};
use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::{MessageId, Tier};
use thiserror::Error;

use crate::clock;
use crate::message::Message;
use crate::send::committed::Committed;
use crate::send::in_flight::Share;
use crate::send::publisher::{Inner, Publisher};
use crate::send::rolled_back::Notice;

/// Messages whose checks are on their way to the broker. Next: [`begin`](Self::begin).
///
/// While the transaction does its work the checks travel; [`commit`](crate::Enlisted::commit) waits
/// for both. To hold no locks meanwhile, wait first: [`held`](Self::held).
///
/// When dropped, nothing is sent. The callback service is told so, if that is possible at once;
/// otherwise the checks come due later and are answered "never committed".
#[must_use = "nothing is sent: begin a transaction with it, commit and publish"]
pub struct Armed {
    pub(crate) batch: Batch,
    pub(crate) arming: Arming,
}

/// Messages whose checks the broker holds. Next: [`begin`](Self::begin), or, for an upstream without
/// Postgres, [`committed`](Self::committed).
#[must_use = "nothing is sent: commit and publish"]
#[derive(Debug)]
pub struct Held {
    pub(crate) batch: Batch,
}

/// Messages that go together, with their share of what may be unconfirmed.
pub(crate) struct Batch {
    pub(crate) publisher: Arc<Inner>,
    pub(crate) messages: Vec<Message>,
    pub(crate) share: Share,
    pub(crate) notice: Notice,
    armed_at: Instant,
}

/// How far arming is.
pub(crate) enum Arming {
    /// What the broker has not said yet.
    UnderWay(Vec<Pending>),
    Held,
}

/// Why messages could not even be armed. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArmError {
    /// As much is unconfirmed as may be: try again when the broker has caught up.
    #[error("overloaded: as many messages are unconfirmed by the broker as may be")]
    Overloaded,
    /// The broker is not connected, or blocks publishers.
    #[error("the broker is away: {why}")]
    Away {
        /// What is the matter.
        why: String,
    },
    /// This message cannot be sent at all.
    #[error("message {id}: {why}")]
    Invalid {
        /// Which.
        id: MessageId,
        /// What is wrong with it.
        why: String,
    },
    /// A transaction sends 1 to 1,000 messages.
    #[error("{0} messages: a transaction can send 1 to {MAX_ENTRIES}")]
    Count(usize),
    /// [`Publisher::close`] was called.
    #[error("the publisher is closed")]
    Closed,
}

/// The broker does not hold the check, or did not say so in time. Nothing was committed or sent.
#[derive(Debug, Error)]
#[error("not armed: {why}")]
pub struct NotArmed {
    /// Why.
    pub why: NotArmedReason,
    /// The messages, to be armed again.
    pub messages: Vec<Message>,
}

/// Why a check is not armed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotArmedReason {
    /// No wait queue is bound for this tier.
    #[error(
        "no wait queue for tier {tier}: is the callback service running, and is the tier in its COUNTERSIGN_CHECK_TIERS? (the broker says: {why})"
    )]
    NoWaitQueue {
        /// The tier.
        tier: Tier,
        /// What the broker says.
        why: String,
    },
    /// The wait queue does not take the check: full, most likely.
    #[error("the wait queue of tier {tier} refused the check: is it full?")]
    Refused {
        /// The tier.
        tier: Tier,
    },
    /// The broker did not say whether it has the check.
    #[error("the broker did not say whether it has the check: {why}")]
    Unknown {
        /// What happened instead.
        why: String,
    },
    /// The broker took longer than the arm timeout.
    #[error("the broker did not confirm the check within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// An id this far ahead of the clock was not made by it.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

impl Publisher {
    /// Arms a message's check. It leaves at once, together with those of other callers.
    ///
    /// # Errors
    /// When the broker is away or blocked, when too much is unconfirmed, or when the message cannot
    /// be sent at all. Nothing was sent then.
    pub fn arm(&self, message: Message) -> Result<Armed, ArmError> {
        self.arm_all(vec![message])
    }

    /// Arms the checks of 1 to 1,000 messages that one transaction sends.
    ///
    /// # Errors
    /// As [`arm`](Self::arm).
    pub fn arm_all(&self, mut messages: Vec<Message>) -> Result<Armed, ArmError> {
        if messages.is_empty() || messages.len() > MAX_ENTRIES {
            return Err(ArmError::Count(messages.len()));
        }
        let now = clock::now();
        for message in &mut messages {
            self.inner.complete(message);
            if message.id.time() > now.after(MAX_CLOCK_SKEW) {
                let why = "its id is of the future: is the clock right that it was made by?".into();
                return Err(ArmError::Invalid { id: message.id, why });
            }
            if let Some(why) = message.problem() {
                return Err(ArmError::Invalid { id: message.id, why });
            }
        }
        let share = self
            .inner
            .budget
            .take(messages.iter().map(|message| message.body.len()))
            .ok_or(ArmError::Overloaded)?;
        let notice = self.inner.notices.notice(&messages);
        let arming = messages
            .iter()
            .map(|message| self.inner.check(message, notice.arming()))
            .collect::<Result<Vec<Pending>, NotTaken>>()?;
        let publisher = Arc::clone(&self.inner);
        let batch = Batch { publisher, messages, share, notice, armed_at: Instant::now() };
        Ok(Armed { batch, arming: Arming::UnderWay(arming) })
    }
}

impl Inner {
    /// Fills in what a message leaves to its publisher.
    pub(crate) fn complete(&self, message: &mut Message) {
        if message.consumers.is_empty() {
            *message = std::mem::replace(message, Message::new("", "", ""))
                .with_consumers(self.settings.consumers.clone());
        }
    }
}

impl Armed {
    /// Waits until the broker holds the checks, for at most the arm timeout.
    ///
    /// # Errors
    /// When it does not; the messages are in the error, to be armed again.
    ///
    /// # Cancel safety
    /// When the future is dropped, nothing is sent.
    pub async fn held(mut self) -> Result<Held, NotArmed> {
        match self.arming.wait(&self.batch.publisher).await {
            Ok(()) => {
                // What is committed now, or dropped, only the user knows.
                self.batch.notice.hold_back();
                Ok(Held { batch: self.batch })
            }
            Err(why) => Err(NotArmed { why, messages: self.batch.messages }),
        }
    }

    /// The ids of its messages.
    pub fn message_ids(&self) -> impl Iterator<Item = MessageId> {
        self.batch.messages.iter().map(Message::id)
    }
}

impl Held {
    /// Declares that the messages are committed, in whatever store this upstream has.
    ///
    /// For upstreams without Postgres; with Postgres, [`begin`](Self::begin). Call it after the store
    /// has the data, and only if it has.
    pub fn committed(self) -> Committed {
        let (age, limit) = (self.batch.age(), self.batch.publisher.settings.longest_transaction);
        if age > limit {
            tracing::warn!(
                message_id = %self.batch.messages[0].id, age_ms = age.as_millis(),
                "committed later than the longest transaction allowed: if its check came due meanwhile, it was answered \"never committed\""
            );
        }
        fail::fail_point!("producer.committed", |_| std::process::abort());
        Committed { batch: self.batch }
    }

    /// The ids of its messages.
    pub fn message_ids(&self) -> impl Iterator<Item = MessageId> {
        self.batch.messages.iter().map(Message::id)
    }
}

impl Batch {
    /// How long ago it was armed or, if that is longer ago, its oldest id was made: from the id
    /// others tell whether its transaction may still commit.
    pub(crate) fn age(&self) -> Duration {
        let now = clock::now();
        let oldest = self.messages.iter().map(|message| now.since(message.id.time())).max();
        self.armed_at.elapsed().max(oldest.unwrap_or_default())
    }
}

impl Arming {
    /// Waits until the broker has said of every check that it holds it.
    pub(crate) async fn wait(&mut self, publisher: &Inner) -> Result<(), NotArmedReason> {
        let Self::UnderWay(pending) = self else { return Ok(()) };
        let (tier, limit) = (publisher.settings.tier, publisher.settings.arm_timeout);
        let all = async {
            while let Some(next) = pending.last_mut() {
                let verdict = next.await;
                pending.pop();
                if let Some(why) = not_armed(verdict, tier) {
                    return Err(why);
                }
            }
            Ok(())
        };
        match tokio::time::timeout(limit, all).await {
            Ok(result) => result?,
            Err(_) => return Err(NotArmedReason::Timeout(limit)),
        }
        *self = Self::Held;
        Ok(())
    }
}

pub(crate) fn not_armed(verdict: PublishOutcome, tier: Tier) -> Option<NotArmedReason> {
    match verdict {
        PublishOutcome::Routed => None,
        PublishOutcome::Unroutable { why } => Some(NotArmedReason::NoWaitQueue { tier, why }),
        PublishOutcome::Refused => Some(NotArmedReason::Refused { tier }),
        PublishOutcome::Unknown { why } => Some(NotArmedReason::Unknown { why }),
    }
}

impl From<NotTaken> for ArmError {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Overloaded => Self::Overloaded,
            NotTaken::Away { why } => Self::Away { why },
            NotTaken::Closed => Self::Closed,
            other => Self::Away { why: other.to_string() },
        }
    }
}

impl fmt::Debug for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Armed").field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.messages.iter().map(Message::id)).finish()
    }
}

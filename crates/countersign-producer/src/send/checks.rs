//! Checks on their way to the broker.

use std::time::{Duration, Instant};

use countersign_amqp::{NotTaken, Pending, PublishOutcome};
use countersign_protocol::check::CheckedMessage;
use countersign_protocol::{MessageId, Name, Tier};
use thiserror::Error;
use tokio::time::timeout;

use crate::send::destinations::{Lookup, NoExchange};
use crate::send::publisher::{Inner, Publisher};

/// Checks that the broker has not said it holds, and exchanges that it has not said to be there.
/// Empty when it has.
#[derive(Default)]
pub(crate) struct Checks {
    pending: Vec<Pending>,
    lookups: Vec<Lookup>,
}

/// Why the broker does not hold a check, or may not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum NotHeld {
    #[error(
        "no wait queue for tier {tier}: is the callback service running, and is the tier in its COUNTERSIGN_CHECK_TIERS? (the broker says: {why})"
    )]
    NoWaitQueue { tier: Tier, why: String },
    #[error("the wait queue of tier {tier} refused the check: is it full?")]
    Refused { tier: Tier },
    #[error("the broker did not say whether it has the check: {why}")]
    Unknown { why: String },
    #[error(transparent)]
    NoExchange(#[from] NoExchange),
    #[error("the broker did not confirm the check within {} ms", .0.as_millis())]
    Timeout(Duration),
}

impl Checks {
    /// Hands checks over. They leave at once, together with those of other callers.
    pub(crate) fn submit(
        publisher: &Inner,
        messages: impl IntoIterator<Item = CheckedMessage>,
    ) -> Result<Self, NotTaken> {
        let pending = messages.into_iter().map(|message| publisher.check(message));
        Ok(Self { pending: pending.collect::<Result<_, _>>()?, lookups: Vec::new() })
    }

    /// Asks with the checks for these exchanges.
    pub(crate) fn with_lookups(mut self, lookups: Vec<Lookup>) -> Self {
        self.lookups = lookups;
        self
    }

    /// Checks that the broker holds.
    pub(crate) fn held() -> Self {
        Self::default()
    }

    /// Waits until the broker has said of every check that it holds it, for at most the arm timeout.
    /// An exchange that the broker has not spoken of by then refuses nothing.
    pub(crate) async fn wait(&mut self, publisher: &Inner) -> Result<(), NotHeld> {
        let (tier, limit) = (publisher.settings.tier, publisher.settings.arm_timeout);
        let all = async {
            while let Some(next) = self.pending.last_mut() {
                let outcome = next.await;
                self.pending.pop();
                is_held(outcome, tier)?;
            }
            Ok(())
        };
        let began = Instant::now();
        timeout(limit, all).await.unwrap_or(Err(NotHeld::Timeout(limit)))?;
        let left = limit.saturating_sub(began.elapsed());
        let known = async {
            while let Some(next) = self.lookups.last_mut() {
                next.answer().await?;
                self.lookups.pop();
            }
            Ok(())
        };
        timeout(left, known).await.unwrap_or(Ok(()))
    }
}

impl Publisher {
    /// Arms fresh checks for messages that are committed. The error says why the broker does not
    /// hold them all.
    pub(crate) async fn rearm(
        &self,
        messages: impl IntoIterator<Item = (MessageId, Vec<Name>)>,
    ) -> Result<(), String> {
        // A fresh check has no arming id: no notice ever takes back the check of a committed
        // message.
        let checked = messages.into_iter().map(|(id, consumers)| CheckedMessage {
            id,
            consumers,
            arming: None,
        });
        let mut checks = Checks::submit(&self.inner, checked)
            .map_err(|why| format!("the check was not sent: {why}"))?;
        checks.wait(&self.inner).await.map_err(|why| format!("not armed: {why}"))
    }
}

fn is_held(outcome: PublishOutcome, tier: Tier) -> Result<(), NotHeld> {
    match outcome {
        PublishOutcome::Routed => Ok(()),
        PublishOutcome::Unroutable { why } => Err(NotHeld::NoWaitQueue { tier, why }),
        PublishOutcome::Refused => Err(NotHeld::Refused { tier }),
        PublishOutcome::Unknown { why } => Err(NotHeld::Unknown { why }),
    }
}

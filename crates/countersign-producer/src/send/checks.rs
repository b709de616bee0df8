//! Checks on their way to the broker.

use std::time::Duration;

use countersign_amqp::{NotTaken, Pending, PublishOutcome};
use countersign_protocol::check::CheckedMessage;
use countersign_protocol::{MessageId, Name, Tier};
use thiserror::Error;

use crate::send::publisher::{Inner, Publisher};

/// Checks that the broker has not said it holds. Empty when it has.
pub(crate) struct Checks(Vec<Pending>);

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
        pending.collect::<Result<_, _>>().map(Self)
    }

    /// Checks that the broker holds.
    pub(crate) fn held() -> Self {
        Self(Vec::new())
    }

    /// Waits until the broker has said of every check that it holds it, for at most the arm timeout.
    pub(crate) async fn wait(&mut self, publisher: &Inner) -> Result<(), NotHeld> {
        let (tier, limit) = (publisher.settings.tier, publisher.settings.arm_timeout);
        let all = async {
            while let Some(next) = self.0.last_mut() {
                let outcome = next.await;
                self.0.pop();
                is_held(outcome, tier)?;
            }
            Ok(())
        };
        tokio::time::timeout(limit, all).await.unwrap_or(Err(NotHeld::Timeout(limit)))
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

//! Publishing a committed message again.

use countersign_amqp::PublishOutcome;
use countersign_protocol::{Attempt, Name};

use crate::answer::repeats::Republished;
use crate::clock;
use crate::message::Message;
use crate::send::publisher::Publisher;

/// The outcome of a republish.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resent {
    /// The broker confirmed and routed the message.
    Done(Republished),
    /// The message surely was not sent.
    Not(String),
    /// The broker did not say whether it has the message.
    Unclear(String),
}

impl Publisher {
    /// Repeats the flow for a committed message: first its check, and when the broker holds the
    /// check, the message.
    pub(crate) async fn republish(
        &self,
        mut message: Message,
        attempt: Attempt,
        missing: Vec<Name>,
    ) -> Resent {
        if !missing.is_empty() {
            message = message.with_consumers(missing);
        }
        self.inner.complete(&mut message);
        if let Some(why) = message.problem() {
            return Resent::Not(why);
        }
        let Some(_share) = self.inner.budget.take([message.body.len()].into_iter()) else {
            return Resent::Not("overloaded: too much is unconfirmed by the broker".to_owned());
        };
        // Nothing is armed for a message that the broker would refuse.
        match self.inner.destinations(std::slice::from_ref(&message)) {
            Ok(lookups) => {
                for mut lookup in lookups {
                    let limit = self.inner.settings.arm_timeout;
                    if let Ok(Err(why)) = tokio::time::timeout(limit, lookup.answer()).await {
                        return Resent::Not(why.to_string());
                    }
                }
            }
            Err(why) => return Resent::Not(why.to_string()),
        }
        if let Err(why) = self.rearm([(message.id, message.consumers.clone())]).await {
            return Resent::Not(why);
        }
        let published_at = clock::now();
        match self.inner.publish(&message, attempt, published_at) {
            Ok(pending) => resent(pending.await, Republished { attempt, published_at }),
            Err(why) => Resent::Not(why.to_string()),
        }
    }
}

fn resent(outcome: PublishOutcome, done: Republished) -> Resent {
    match outcome {
        PublishOutcome::Routed => Resent::Done(done),
        PublishOutcome::Unroutable { why } => Resent::Not(format!("unroutable: {why}")),
        PublishOutcome::Refused => Resent::Not("a queue refused it: is it full?".to_owned()),
        PublishOutcome::Unknown { why } => Resent::Unclear(why),
    }
}

#[cfg(test)]
mod tests {
    use countersign_protocol::UnixMillis;

    use super::*;

    #[test]
    fn only_what_the_broker_routed_counts_as_republished() {
        let done = Republished { attempt: Attempt::FIRST, published_at: UnixMillis::EPOCH };
        assert_eq!(resent(PublishOutcome::Routed, done), Resent::Done(done));
        let unroutable = resent(PublishOutcome::Unroutable { why: "NO_ROUTE".into() }, done);
        assert_eq!(unroutable, Resent::Not("unroutable: NO_ROUTE".into()));
        assert!(matches!(resent(PublishOutcome::Refused, done), Resent::Not(_)));
        assert!(matches!(
            resent(PublishOutcome::Unknown { why: "reset".into() }, done),
            Resent::Unclear(_)
        ));
    }
}

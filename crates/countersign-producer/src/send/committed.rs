//! After the commit: the SDK hands the messages to the broker, and tries those again that the
//! broker refuses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_amqp::{NotTaken, Pending, PublishOutcome};
use countersign_protocol::Attempt;
use futures_util::future::join_all;
use tracing::{debug, warn};

use crate::clock;
use crate::message::Message;
use crate::send::batch::Batch;
use crate::send::publisher::Inner;

/// Messages whose transaction is committed. Next: [`publish`](Self::publish).
#[derive(Debug)]
#[must_use = "without `publish`, the messages are sent only when their checks come due"]
pub struct Committed {
    pub(crate) batch: Batch,
}

/// After this many publishes of one message the check does the rest. The pauses between them are 11
/// s together.
const MAX_TRIES: u32 = 8;
/// After this time the check does the rest, too. It is long enough for a leader election of a
/// quorum queue.
const MAX_TRYING: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Committed {
    /// Hands the messages over, and returns at once.
    ///
    /// When the broker refuses a message, the SDK publishes it again in the background, a few
    /// times. When the broker still does not take it, the message is sent when its check comes due.
    /// Call this within a Tokio runtime.
    pub fn publish(self) {
        let Batch { publisher, messages, share, .. } = self.batch;
        let now = clock::now();
        let handed_over: Vec<_> = messages
            .into_iter()
            .map(|message| (publisher.publish(&message, Attempt::FIRST, now), message))
            .collect();
        let settling = Arc::clone(&publisher);
        publisher.settling.spawn(async move {
            let each = handed_over
                .into_iter()
                .map(|(handed_over, message)| settle(&settling, handed_over, message));
            join_all(each).await;
            drop(share);
        });
    }
}

/// Sees a published message through until the broker has it or its check has to do the rest.
async fn settle(publisher: &Inner, handed_over: Result<Pending, NotTaken>, message: Message) {
    let began = Instant::now();
    let limit = MAX_TRYING.min(publisher.settings.tier.delay());
    let mut handed_over = handed_over;
    for tries in 1.. {
        let outcome = match handed_over {
            Ok(pending) => Ok(pending.await),
            Err(not_taken) => Err(not_taken),
        };
        match next_step(&outcome, tries, began.elapsed(), limit) {
            Step::Settled => return,
            Step::LeaveToTheCheck(why) => {
                warn!(message_id = %message.id, tries, why, "not published: its check will have it sent again");
                return;
            }
            Step::Again(pause) => {
                debug!(message_id = %message.id, tries, ?outcome, "publishing again");
                tokio::time::sleep(pause).await;
            }
        }
        handed_over = publisher.publish(&message, Attempt::FIRST, clock::now());
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Settled,
    Again(Duration),
    LeaveToTheCheck(String),
}

/// The next step after the `tries`-th publish, `elapsed` after the first.
fn next_step(
    outcome: &Result<PublishOutcome, NotTaken>,
    tries: u32,
    elapsed: Duration,
    limit: Duration,
) -> Step {
    let pause = FIRST_PAUSE.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_PAUSE);
    let why = match outcome {
        Ok(PublishOutcome::Routed) => return Step::Settled,
        Ok(PublishOutcome::Unroutable { why }) => {
            return Step::LeaveToTheCheck(format!("unroutable: {why}"));
        }
        Ok(PublishOutcome::Refused) => "refused: is a queue full?".to_owned(),
        Ok(PublishOutcome::Unknown { why }) => format!("no answer: {why}"),
        Err(closed_or_too_large @ (NotTaken::Closed | NotTaken::TooLarge(_))) => {
            return Step::LeaveToTheCheck(closed_or_too_large.to_string());
        }
        Err(not_taken) => not_taken.to_string(),
    };
    if tries >= MAX_TRIES || elapsed + pause > limit {
        Step::LeaveToTheCheck(why)
    } else {
        Step::Again(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_publishes_are_tried_again_for_a_while_and_unroutable_ones_are_not() {
        let s = Duration::from_secs;
        let unroutable = || Ok(PublishOutcome::Unroutable { why: "no queue".into() });
        let unknown = || Ok(PublishOutcome::Unknown { why: "reset".into() });
        let left = |why: &str| Step::LeaveToTheCheck(why.to_owned());
        for (outcome, tries, elapsed, expected) in [
            (Ok(PublishOutcome::Routed), 1, s(0), Step::Settled),
            (Ok(PublishOutcome::Refused), 1, s(0), Step::Again(Duration::from_millis(100))),
            (unknown(), 3, s(1), Step::Again(Duration::from_millis(400))),
            (Err(NotTaken::Away { why: "gone".into() }), 7, s(9), Step::Again(s(5))),
            (Ok(PublishOutcome::Refused), 8, s(9), left("refused: is a queue full?")),
            (Ok(PublishOutcome::Refused), 7, s(26), left("refused: is a queue full?")),
            (unroutable(), 1, s(0), left("unroutable: no queue")),
            (Err(NotTaken::Closed), 1, s(0), left("closed")),
        ] {
            assert_eq!(next_step(&outcome, tries, elapsed, s(30)), expected, "{outcome:?}");
        }
    }
}

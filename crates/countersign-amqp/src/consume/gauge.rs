//! What a consumer and its queue hold, at one moment.

use std::time::Duration;

use countersign_protocol::MessageId;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::consume::acks::Acks;
use crate::consume::delivery::SubscriptionId;
use crate::consume::hand::Told;

/// Tells what a [`Consumer`](crate::Consumer) holds of its queue. A clone tells of the same consumer.
#[derive(Clone, Debug)]
pub struct Gauge {
    connection: Connection,
    queue: String,
    questions: mpsc::Sender<Question>,
}

/// What a queue and one of its consumers hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaugeReading {
    /// The subscription that the figures are of. After a reconnect it is another one.
    pub session: Session,
    /// Messages in the queue that no consumer holds.
    pub ready: u32,
    /// Consumers of the queue, those among them that hold messages and consume no more.
    pub consumers: u32,
    /// How many deliveries this subscription has received. Every delivery that left the queue before
    /// `ready` and `consumers` were read counts.
    pub taken: u64,
    /// Every delivery up to this number has ended, but for those in `slow`.
    pub done: u64,
    /// Deliveries that have been in hand for long, oldest first.
    pub slow: Vec<MessageId>,
}

/// One subscription of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session(SubscriptionId);

/// Why a consumer cannot be gauged now: it is not connected, or the broker does not answer.
#[derive(Clone, Debug, Error)]
#[error("what lies in queue {queue} cannot be told: {why}")]
pub struct NotRead {
    queue: String,
    why: String,
}

/// A question to the task of a consumer.
#[derive(Debug)]
pub(crate) struct Question {
    slow_after: Duration,
    most_slow: usize,
    reply: oneshot::Sender<(SubscriptionId, Told)>,
}

/// A quorum queue may let its follower on the consumer's node send a delivery, which can be some
/// milliseconds later than the leader counts the message out. So long after the count, such a delivery is
/// on its way on the consumer's channel.
const FOLLOWERS_DELIVER_WITHIN: Duration = Duration::from_millis(100);

/// How long the round trip on the consumer's channel may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

impl Gauge {
    pub(crate) fn new(
        connection: Connection,
        queue: String,
        questions: mpsc::Sender<Question>,
    ) -> Self {
        Self { connection, queue, questions }
    }

    /// Reads the gauge. Deliveries that have been in hand for `slow_after` count as slow, the oldest
    /// `most_slow` of them.
    ///
    /// The order is what the figures are worth: first the queue is counted, then a round trip on the
    /// consumer's channel brings in every delivery that left the queue before, and only then the
    /// deliveries are counted. It takes a tenth of a second.
    ///
    /// # Errors
    /// When the connection is away, the broker does not answer within 5 s, or it may not have asked the
    /// queue.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn read(
        &self,
        slow_after: Duration,
        most_slow: usize,
    ) -> Result<GaugeReading, NotRead> {
        let not_read = |why: String| NotRead { queue: self.queue.clone(), why };
        let count = self.connection.count(&self.queue).await;
        let count = count.map_err(|why| not_read(why.to_string()))?;
        let count = count.ok_or_else(|| not_read("there is no such queue".to_owned()))?;
        if count.consumers == 0 {
            return Err(not_read("it is told as one without a consumer".to_owned()));
        }
        tokio::time::sleep(FOLLOWERS_DELIVER_WITHIN).await;
        let (reply, told) = oneshot::channel();
        let asking = async {
            self.questions.send(Question { slow_after, most_slow, reply }).await.ok()?;
            told.await.ok()
        };
        let told = tokio::time::timeout(FLUSH_TIMEOUT, asking).await;
        let told = told.map_err(|_| not_read("its channel does not answer".to_owned()))?;
        let (session, Told { taken, done, slow }) =
            told.ok_or_else(|| not_read("its consumer has ended".to_owned()))?;
        let (ready, consumers) = (count.ready, count.consumers);
        Ok(GaugeReading { session: Session(session), ready, consumers, taken, done, slow })
    }
}

impl Question {
    /// Answers with what stands now; leaves the question open if there is no subscription.
    pub(crate) fn answer(self, acks: &Acks) {
        if let Some(told) = acks.told(Instant::now(), self.slow_after, self.most_slow) {
            // Whoever asked may have gone.
            let _ = self.reply.send(told);
        }
    }
}

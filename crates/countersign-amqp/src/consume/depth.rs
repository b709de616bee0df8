//! The depth of a queue, as the queue itself tells it.

use std::time::Duration;

use lapin::ErrorKind;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError, constants};
use lapin::types::{FieldTable, ShortString};
use thiserror::Error;

use crate::connection::Connection;
use crate::error::{Error, within};

/// How long the broker may take to count. A queue without a leader never answers, and the caller
/// asks again soon.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why messages could not be counted.
#[derive(Clone, Debug, Error)]
#[error("queue {queue} cannot be asked for its messages: {why}")]
pub struct NotCounted {
    queue: String,
    why: String,
}

/// What a queue says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCount {
    /// Messages that no consumer holds.
    pub ready: u32,
    /// Consumers. Of a queue with a single active consumer those that wait their turn do not count.
    pub consumers: u32,
}

impl QueueCount {
    /// Whether the queue may not have been asked at all: a quorum queue whose leader does not answer
    /// within 250 ms is told as one without messages and without consumers (`stat` in
    /// `rabbit_quorum_queue.erl` of 3.10.8 to 4.3.5).
    #[must_use]
    pub fn may_be_no_answer(self) -> bool {
        self == Self { ready: 0, consumers: 0 }
    }
}

impl Connection {
    /// How many messages are ready in a queue, and how many consumers it has. Messages that a consumer
    /// holds do not count as ready (reproduced on 3.10.8). `None` if there is no such queue. The
    /// question has a channel of its own, which the broker closes if there is none; the connection and
    /// its other channels go on.
    ///
    /// # Errors
    /// When the connection is away, or the broker does not answer within 5 s.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn count(&self, queue: &str) -> Result<Option<QueueCount>, NotCounted> {
        let not_counted = |why: String| NotCounted { queue: queue.to_owned(), why };
        let epoch = self.epochs().borrow().clone().filter(|epoch| !epoch.is_ended());
        let epoch = epoch.ok_or_else(|| not_counted("not connected".to_owned()))?;
        let name = ShortString::try_new(queue)
            .map_err(|_| not_counted(Error::NameTooLong { what: queue.to_owned() }.to_string()))?;
        // The count has a channel of its own, because the broker closes the channel if there is no
        // such queue.
        let channel = epoch.channel().await.map_err(|error| not_counted(error.to_string()))?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let counting = channel.queue_declare(name, options, FieldTable::default());
        match within(COUNT_TIMEOUT, "counting", counting).await {
            Ok(found) => {
                let closing = channel.close(constants::REPLY_SUCCESS, "counted".into());
                // A channel that does not close in time goes with its connection.
                let _ = within(COUNT_TIMEOUT, "closing a channel", closing).await;
                Ok(Some(QueueCount {
                    ready: found.message_count(),
                    consumers: found.consumer_count(),
                }))
            }
            Err(Error::Client(error)) if is_not_found(&error) => Ok(None),
            Err(error) => Err(not_counted(error.to_string())),
        }
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ProtocolError(e) if *e.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
    )
}

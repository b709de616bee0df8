//! The broker's queues: a look from outside, and purges.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use countersign_amqp::{Address, Connection, Consumer, Delivery, Subscription};
use countersign_protocol::Topology;
use countersign_testbed::{BrokerAddress, Depth, Queue};
use tokio::time::{Instant, sleep, timeout_at};

const VHOST: &str = "/";
/// How many deliveries a quorum queue lets one consumer hold.
pub(crate) const MAX_READ: u16 = 2_000;
const READ_WITHIN: Duration = Duration::from_secs(10);
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// After this long without a message the queue counts as empty.
const IDLE: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How old the management API's figures may be on the testbed's broker.
pub(crate) const FIGURES_AGE: Duration = Duration::from_millis(200);

/// The queues of the private broker.
#[derive(Debug)]
pub(crate) struct Queues {
    figures: countersign_testbed::Queues,
    amqp: Address,
}

impl Queues {
    pub(crate) fn of(broker: &BrokerAddress) -> Result<Self> {
        let figures = countersign_testbed::Queues::new(broker, VHOST);
        Ok(Self { figures, amqp: broker.url(VHOST).parse()? })
    }

    /// All queues, as they were up to [`FIGURES_AGE`] ago.
    pub(crate) async fn all(&self) -> Result<Vec<Queue>> {
        self.figures.all().await
    }

    /// Waits until a queue is as wanted.
    pub(crate) async fn wait_for(
        &self,
        name: &str,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(Depth) -> bool,
    ) -> Result<Depth> {
        let end = Instant::now() + deadline;
        loop {
            let seen = self.figures.depth(name).await?;
            let seen = seen.with_context(|| format!("there is no queue {name}"))?;
            if wanted(seen) {
                return Ok(seen);
            }
            if Instant::now() > end {
                bail!("waited {deadline:?} for {what} in {name}; last seen: {seen:?}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The messages that wait in a queue without another consumer, at least `expected` of them.
    /// They stay in the queue.
    ///
    /// Through AMQP, because the management API cannot read a queue with a single active consumer.
    pub(crate) async fn read(&self, name: &str, expected: usize) -> Result<Vec<Delivery>> {
        let connection = Connection::start(self.amqp.clone(), "demo", Topology::default());
        let subscription =
            Subscription { queue: name.to_owned(), prefetch: MAX_READ, priority: None };
        let mut consumer = Consumer::start(&connection, subscription);
        let mut found = Vec::new();
        let end = Instant::now() + READ_WITHIN;
        loop {
            let patience = if found.len() < expected { end } else { Instant::now() + IDLE };
            match timeout_at(patience, consumer.next_batch(MAX_READ.into())).await {
                Ok(batch) if !batch.is_empty() => {
                    found.extend(batch);
                }
                _ => break,
            }
        }
        consumer.close().await;
        connection.close().await;
        if found.len() < expected {
            bail!("{name}: {} of {expected} messages came within {READ_WITHIN:?}", found.len());
        }
        Ok(found)
    }

    /// Destroys the ready messages of a queue, once the `read` messages that were
    /// [read](Self::read) from it are back: a purge spares messages that a consumer holds. A resend
    /// that arrives between the reading and the purge is destroyed with them.
    pub(crate) async fn purge(&self, name: &str, read: usize) -> Result<()> {
        let read = u64::try_from(read)?;
        // Figures from before the reading would look the same.
        sleep(2 * FIGURES_AGE).await;
        let are_back = |depth: Depth| depth.ready >= read && depth.unacked == 0;
        self.wait_for(name, "the messages that were read", BACK_WITHIN, are_back).await?;
        self.figures.purge(name).await
    }
}

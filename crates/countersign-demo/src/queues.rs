//! The broker's queues, looked at from outside, and purged.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use countersign_amqp::{Address, Connection, Consumer, Delivery, Subscription};
use countersign_protocol::Topology;
use countersign_testbed::{BrokerAddress, Management};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};
use ureq::http::Method;

const VHOST: &str = "/";
/// A quorum queue's limit of deliveries in one consumer's hand.
pub(crate) const MAX_READ: u16 = 2_000;
const READ_WITHIN: Duration = Duration::from_secs(10);
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// Nothing more is there when nothing came for so long.
const IDLE: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How old the management API's figures may be on the testbed's broker.
pub(crate) const FIGURES_AGE: Duration = Duration::from_millis(200);

/// The queues of the private broker.
#[derive(Debug)]
pub(crate) struct Queues {
    management: Management,
    amqp: Address,
}

/// A queue and what is in it. The figures are up to 0.2 s old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) name: String,
    /// Waiting for a consumer.
    pub(crate) ready: u64,
    /// In a consumer's hand.
    pub(crate) unacked: u64,
}

impl Queues {
    pub(crate) fn of(broker: &BrokerAddress) -> Result<Self> {
        Ok(Self { management: broker.management(), amqp: broker.url(VHOST).parse()? })
    }

    /// All of them.
    pub(crate) async fn all(&self) -> Result<Vec<Queue>> {
        let queues = self.management.get(&["queues", VHOST]).await?.unwrap_or_default();
        Ok(queues.as_array().into_iter().flatten().filter_map(queue).collect())
    }

    /// One of them.
    pub(crate) async fn look(&self, name: &str) -> Result<Queue> {
        let seen = self.management.get(&["queues", VHOST, name]).await?;
        seen.as_ref().and_then(queue).with_context(|| format!("there is no queue {name}"))
    }

    /// Waits until one of them is as wanted.
    pub(crate) async fn wait_for(
        &self,
        name: &str,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Queue) -> bool,
    ) -> Result<Queue> {
        let end = Instant::now() + deadline;
        loop {
            let seen = self.look(name).await?;
            if wanted(&seen) {
                return Ok(seen);
            }
            if Instant::now() > end {
                bail!("waited {deadline:?} for {what} in {name}; last seen: {seen:?}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What waits in a queue nobody else consumes, and at least `expected` of them.
    /// They stay there.
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

    /// Destroys what waits in a queue, once the `read` messages are back that were [read](Self::read)
    /// from it: a purge spares what a consumer holds. A resend that arrives between the reading and
    /// the purge is destroyed with them.
    pub(crate) async fn purge(&self, name: &str, read: usize) -> Result<()> {
        let read = u64::try_from(read)?;
        // Figures of before the reading would look the same.
        sleep(2 * FIGURES_AGE).await;
        let are_back = |queue: &Queue| queue.ready >= read && queue.unacked == 0;
        self.wait_for(name, "the messages that were read", BACK_WITHIN, are_back).await?;
        self.management
            .call(Method::DELETE, &["queues", VHOST, name, "contents"], None::<Value>)
            .await?
            .with_context(|| format!("there is no queue {name}"))
            .map(drop)
    }
}

fn queue(queue: &Value) -> Option<Queue> {
    // A queue just declared has no figures yet.
    let figure = |name: &str| queue.get(name).and_then(Value::as_u64).unwrap_or(0);
    Some(Queue {
        name: queue.get("name")?.as_str()?.to_owned(),
        ready: figure("messages_ready"),
        unacked: figure("messages_unacknowledged"),
    })
}

//! The contents of a vhost's queues, as the management API shows them.

use anyhow::{Context as _, Result};
use countersign_management::{Management, Method};
use serde_json::Value;

use crate::broker::BrokerAddress;

/// How many messages a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Messages delivered, not yet acked.
    pub unacked: u64,
}

impl Depth {
    /// Messages ready and held together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.ready + self.unacked
    }
}

/// A queue and how many messages it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The queue's name.
    pub name: String,
    /// The queue's messages, as the broker counted them some moments ago.
    pub depth: Depth,
}

/// The queues of a vhost. The caller decides what an error means; [`Vhost`](crate::Vhost) panics.
#[derive(Clone, Debug)]
pub struct Queues {
    management: Management,
    vhost: String,
}

impl Queues {
    /// The queues of this vhost. The call does not ask the broker yet.
    #[must_use]
    pub fn new(broker: &BrokerAddress, vhost: &str) -> Self {
        Self { management: broker.management(), vhost: vhost.to_owned() }
    }

    /// All queues of the vhost.
    ///
    /// # Errors
    /// If the broker does not answer or refuses.
    pub async fn all(&self) -> Result<Vec<Queue>> {
        let queues = self.management.get(&["queues", &self.vhost]).await?.unwrap_or_default();
        Ok(queues.as_array().into_iter().flatten().filter_map(read).collect())
    }

    /// One queue. `None` if it does not exist.
    ///
    /// # Errors
    /// If the broker does not answer or refuses.
    pub async fn depth(&self, name: &str) -> Result<Option<Depth>> {
        let queue = self.management.get(&["queues", &self.vhost, name]).await?;
        Ok(queue.as_ref().and_then(read).map(|queue| queue.depth))
    }

    /// Destroys the ready messages of a queue. Messages that a consumer holds stay.
    ///
    /// # Errors
    /// If the broker does not answer, refuses, or has no such queue.
    pub async fn purge(&self, name: &str) -> Result<()> {
        let path = ["queues", &self.vhost, name, "contents"];
        let purged = self.management.call(Method::DELETE, &path, None).await?;
        purged.map(drop).with_context(|| format!("there is no queue {name}"))
    }
}

fn read(queue: &Value) -> Option<Queue> {
    // A queue that was just declared has no figures yet.
    let figure = |name: &str| queue.get(name).and_then(Value::as_u64).unwrap_or(0);
    let depth =
        Depth { ready: figure("messages_ready"), unacked: figure("messages_unacknowledged") };
    Some(Queue { name: queue.get("name")?.as_str()?.to_owned(), depth })
}

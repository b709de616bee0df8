//! The confirm shards of one replica: those that it begins with, and those that another replica adds.

use std::sync::Arc;
use std::time::Duration;

use countersign_amqp::Connection;
use countersign_retry::Retry;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::parts::Parts;

/// Records the confirms of every shard that is in use.
#[derive(Debug)]
pub(crate) struct AllConfirms {
    /// What the intake of a shard is made of.
    pub(crate) parts: Arc<Parts>,
    /// The connection to consume on.
    pub(crate) consuming: Connection,
    /// How many shards this replica begins with.
    pub(crate) at_first: u16,
}

/// How often this replica looks for shards that another one has added. Until it consumes one, the other one
/// does.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl AllConfirms {
    /// Records until `shutdown`, then finishes the batches in hand.
    ///
    /// Shards that another replica has added are declared and consumed on a connection of their own: the other one
    /// may not have come to declare them, and to consume a queue that is not there ends a connection.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut recording = JoinSet::new();
        let mut retry = Retry::new("read which confirm shards are in use");
        let mut connections = vec![self.consuming.clone()];
        let (mut begun, mut in_use) = (0, self.at_first);
        loop {
            if begun > 0 && in_use > begun {
                info!(
                    shards = in_use,
                    "another replica has added confirm shards: this one consumes them, too"
                );
                connections.push(self.parts.consuming_added(in_use));
            }
            let connection = connections.last().unwrap_or(&self.consuming);
            for shard in begun..in_use {
                let confirms = self.parts.confirms(shard);
                let subscription = self.parts.shard(shard);
                recording.spawn(confirms.run(connection.clone(), subscription, shutdown.clone()));
            }
            begun = in_use.max(begun);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                // Each records until `shutdown`: if one ends before, this worker does, and with it the service.
                Some(ended) = recording.join_next() => return ended.unwrap_or_else(panic_again),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.parts.ledger().shards_in_use().await {
                Ok(shards) => {
                    retry.worked();
                    in_use = shards;
                }
                Err(error) => drop(retry.failed(&error)),
            }
        }
        while let Some(ended) = recording.join_next().await {
            ended.unwrap_or_else(panic_again);
        }
        for added in connections.iter().skip(1) {
            added.close().await;
        }
    }
}

fn panic_again(error: JoinError) {
    // No task is cancelled while its set lives.
    std::panic::resume_unwind(error.into_panic());
}

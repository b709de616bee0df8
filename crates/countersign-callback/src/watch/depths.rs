//! The depths of the queues that overdue messages may wait in, read while a round wants them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_amqp::Connection;
use countersign_management::{Management, ManagementUrl};
use countersign_retry::Retry;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ledger::{Ledger, Reading};

/// A round says here which queues' depths it wants. A clone says it to the same [`Depths`].
#[derive(Clone, Debug, Default)]
pub(crate) struct WantedDepths {
    queues: Arc<Mutex<BTreeSet<String>>>,
    wanted: Arc<Notify>,
}

/// Reads the depths of queues.
#[derive(Debug)]
pub(crate) struct Depths {
    /// The database that notes the readings for all replicas.
    pub(crate) ledger: Ledger,
    /// A connection for these questions alone: a queue without a leader may hold a channel up.
    pub(crate) connection: Connection,
    /// The management API, which alone knows how many messages consumers hold, if it is configured.
    pub(crate) management: Option<Held>,
    /// The queues whose depths are wanted.
    pub(crate) wanted: WantedDepths,
}

/// A queue is read no more often than this, whatever the number of replicas and of messages. A little
/// less than the time between readings, so that a replica that reads in time is not refused.
const FRESH: Duration = Duration::from_millis(900);

/// The time between two readings of one replica. A row that waits for a depth can
/// wait a second more, and a reading costs the broker a request for each queue.
const BETWEEN_READINGS: Duration = Duration::from_secs(1);

/// How many queues are read at a time. One that does not answer holds up none of the others, and a broker
/// answers so many questions in milliseconds.
const READ_AT_ONCE: usize = 16;

/// How long the management API may take to answer. No message waits for it: a queue that gets no figure
/// now gets one with the next reading.
const MANAGEMENT_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// How long a reading waits for the connection to the broker. Longer than a reconnect takes while the
/// broker is up.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// How many messages of one vhost's queues consumers hold, by the management API.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    management: Management,
    vhost: String,
}

impl Held {
    pub(crate) fn new(url: ManagementUrl, vhost: &str) -> Self {
        let management = Management::new(url, MANAGEMENT_ANSWERS_WITHIN);
        Self { management, vhost: vhost.to_owned() }
    }

    /// How many messages a queue holds, ready or with a consumer. `None` if they have not been
    /// counted yet.
    async fn of(&self, queue: &str) -> Result<Option<u64>, String> {
        self.management.messages(&self.vhost, queue).await.map_err(|why| why.to_string())
    }
}

impl WantedDepths {
    /// Asks for the depths of these queues.
    pub(crate) fn want(&self, queues: impl IntoIterator<Item = String>) {
        let mut wanted = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.extend(queues);
        if !wanted.is_empty() {
            self.wanted.notify_one();
        }
    }

    async fn next(&self) -> Vec<String> {
        loop {
            let taken = {
                let mut wanted = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *wanted)
            };
            if !taken.is_empty() {
                return taken.into_iter().collect();
            }
            self.wanted.notified().await;
        }
    }
}

impl Depths {
    /// Reads the depths that rounds want, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut retry = Retry::new("note what lies in queues");
        let mut failing = false;
        loop {
            let Some(queues) = shutdown.run_until_cancelled(self.wanted.next()).await else {
                break;
            };
            match self.read(&queues, &mut failing, &shutdown).await {
                Ok(()) => retry.worked(),
                Err(error) => {
                    if retry.wait(&error, &shutdown).await.is_err() {
                        break;
                    }
                }
            }
            let pause = tokio::time::sleep(BETWEEN_READINGS);
            if shutdown.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
        self.connection.close().await;
    }

    async fn read(
        &self,
        queues: &[String],
        failing: &mut bool,
        shutdown: &CancellationToken,
    ) -> Result<(), sqlx::Error> {
        let mut queues = queues.to_vec();
        // In any order, so that a queue that answers late is not always read before the same others.
        fastrand::shuffle(&mut queues);
        let reading = stream::iter(queues)
            .map(|queue| self.read_one(queue))
            .buffer_unordered(READ_AT_ONCE)
            .try_fold(Cycle::default(), async |cycle, one| Ok(cycle.and(one)));
        let Some(cycle) = shutdown.run_until_cancelled(reading).await else { return Ok(()) };
        let Cycle { read, problem } = cycle?;
        match (&problem, *failing) {
            (Some(why), false) => warn!(
                why,
                "cannot find out what lies in a queue: messages that may lie there are asked for after COUNTERSIGN_BACKLOG_GRACE"
            ),
            (None, true) if read => info!("can find out again what lies in queues"),
            _ => {}
        }
        if read {
            *failing = problem.is_some();
        }
        Ok(())
    }

    /// Reads a queue, unless another replica does. The queue is claimed just before: the grace of the
    /// messages that may lie in it begins when somebody looks.
    async fn read_one(&self, queue: String) -> Result<Cycle, sqlx::Error> {
        let claimed = self.ledger.claim_depths(std::slice::from_ref(&queue), FRESH).await?;
        let Some((_, claimed_at_us)) = claimed.into_iter().next() else {
            return Ok(Cycle::default());
        };
        let watermark = self.ledger.watermark().await?;
        // When the connection is not there in time, counting fails and says so.
        let _ = tokio::time::timeout(CONNECTED_WITHIN, self.connection.ready()).await;
        let count = match self.connection.count(&queue).await {
            Ok(Some(count)) => count,
            Ok(None) => {
                info!(queue, "a queue that messages were waited for in is gone: it is forgotten");
                self.ledger.forget_queue(&queue, claimed_at_us).await?;
                return Ok(Cycle { read: true, problem: None });
            }
            Err(why) => return Ok(Cycle { read: true, problem: Some(why.to_string()) }),
        };
        let (held, problem) = match &self.management {
            None => (None, None),
            Some(held) => match held.of(&queue).await {
                Ok(held) => (held, None),
                Err(why) => (None, Some(why)),
            },
        };
        let (ready, consumers) = (count.ready.into(), count.consumers.into());
        let reading = Reading { queue, claimed_at_us, ready, consumers, held };
        self.ledger.note_depth(&reading, watermark).await?;
        Ok(Cycle { read: true, problem })
    }
}

/// What became of one look into each wanted queue.
#[derive(Debug, Default)]
struct Cycle {
    /// Whether this replica has looked into a queue.
    read: bool,
    /// Why a queue could not be read.
    problem: Option<String>,
}

impl Cycle {
    fn and(self, other: Self) -> Self {
        Self { read: self.read || other.read, problem: self.problem.or(other.problem) }
    }
}

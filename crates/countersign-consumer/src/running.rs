//! A consumer that runs, to its last ack.

use std::time::Duration;

use countersign_amqp::{Connection, Consumer};
use countersign_retry::Pulse;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::clock;
use crate::ending::Endings;
use crate::name_in_use::NameInUse;

/// Of the drain deadline, this much at most is kept for confirms, acks and the goodbyes to the broker: they
/// take milliseconds, and handlers may need all the rest.
const KEPT_FOR_GOODBYES: Duration = Duration::from_secs(1);

/// A consumer that consumes. Dropped, it stops at once: what is unfinished is delivered again.
#[must_use = "dropped, it stops at once"]
pub struct Running {
    pub(crate) consuming: Connection,
    pub(crate) publishing: Connection,
    pub(crate) endings: Endings,
    /// Takes deliveries until the consumer stops, then returns the consumer for its goodbye.
    pub(crate) taking: JoinHandle<Consumer>,
    pub(crate) tasks: TaskTracker,
    pub(crate) abandon: CancellationToken,
    pub(crate) drain: Duration,
    pub(crate) pulse: Pulse,
    pub(crate) _abandon_on_drop: DropGuard,
    pub(crate) _name: NameInUse,
}

impl Running {
    /// What the consumer has in hand without getting on, for the program's readiness: a delivery that the
    /// database or the broker keeps from its end, and the way to the broker. A consumer that has nothing
    /// to do has nothing in hand, and so has one whose handlers take long.
    ///
    /// A program is not ready when `pulse().stuck(…)` names something for a minute; that ends by itself.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Waits for the shutdown, lets running handlers finish, sends confirms and acks, and says
    /// goodbye to the broker, all within the drain deadline. What is left then is rolled back and
    /// delivered again.
    ///
    /// # Cancel safety
    /// Dropping the future stops the consumer at once.
    pub async fn drained(self) {
        let consumer = match self.taking.await {
            Ok(consumer) => consumer,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        };
        let started = Instant::now();
        let goodbyes = started + self.drain;
        let finished = goodbyes - KEPT_FOR_GOODBYES.min(self.drain / 4);
        self.tasks.close();
        info!(tasks = self.tasks.len(), "draining");
        if timeout_at(finished, self.tasks.wait()).await.is_err() {
            warn!(
                tasks = self.tasks.len(),
                "not finished in time: these messages are delivered again"
            );
            self.abandon.cancel();
            self.tasks.wait().await;
        }
        let left = || goodbyes.saturating_duration_since(Instant::now());
        self.endings.confirms.close(left()).await;
        self.endings.copies.close(left()).await;
        let goodbye = async {
            consumer.close().await;
            tokio::join!(self.consuming.close(), self.publishing.close());
        };
        if timeout_at(goodbyes, goodbye).await.is_err() {
            warn!("the broker did not say goodbye in time");
        }
        info!(drain_ms = clock::ms(started.elapsed()), "drained");
    }
}

//! From a delivery to a committed effect, or to the reason why there is none.

use countersign_protocol::{MessageId, Window};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::clock;
use crate::complaints::Complaints;
use crate::decision::{Ended, Next, Policy, admit, next};
use crate::delivery::{Delivery, Raw};
use crate::effect::Effect;
use crate::ending::{Ending, Endings};

/// Tries deliveries until it is clear what becomes of them.
pub(crate) struct Worker<E> {
    pub(crate) effect: E,
    /// Which ids can take effect.
    pub(crate) window: watch::Receiver<Window>,
    pub(crate) policy: Policy,
    pub(crate) queue: String,
    pub(crate) endings: Endings,
    /// About what keeps it from working at all.
    pub(crate) complaints: Complaints,
    /// Where endings run, so that the handler's slot is free meanwhile.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when what is still running has to be left behind.
    pub(crate) abandon: CancellationToken,
}

impl<E: Effect> Worker<E> {
    /// Works on deliveries that were taken together, until the transaction of each is over.
    ///
    /// # Cancel safety
    /// What was not committed is rolled back; what has no ack is delivered again.
    pub(crate) async fn work(&self, taken: Vec<Raw>) {
        let mut group: Vec<Delivery> = taken.into_iter().filter_map(|raw| self.fit(raw)).collect();
        if group.len() > 1 {
            group = self.together(group).await;
        }
        for delivery in group {
            self.alone(delivery).await;
        }
    }

    /// Tries a group in one transaction. What is returned has to be done one by one.
    async fn together(&self, mut group: Vec<Delivery>) -> Vec<Delivery> {
        let mut backoff = Backoff::new();
        loop {
            match self.effect.attempt(&mut group).await {
                Ended::Committed | Ended::Duplicate => {
                    for delivery in group {
                        self.processed(delivery);
                    }
                    return Vec::new();
                }
                Ended::DatabaseAway(why) => {
                    if !self.pause(&mut backoff, &group[0], &why).await {
                        return Vec::new();
                    }
                    group = group.into_iter().filter_map(|d| self.fit(d.into_raw())).collect();
                    if group.len() < 2 {
                        return group;
                    }
                }
                ended => {
                    info!(messages = group.len(), ?ended, "a batch failed: one by one now");
                    return group;
                }
            }
        }
    }

    /// Tries a delivery until it is clear what becomes of it.
    async fn alone(&self, mut delivery: Delivery) {
        let mut backoff = Backoff::new();
        let mut interrupted = 0;
        loop {
            let ended = self.effect.attempt(std::slice::from_mut(&mut delivery)).await;
            match next(ended, delivery.failures(), interrupted, &self.policy) {
                Next::Confirm => return self.processed(delivery),
                Next::Again { why, interruptions } => {
                    interrupted = interruptions;
                    if !self.pause(&mut backoff, &delivery, &why).await {
                        return;
                    }
                    // It may have become too old meanwhile.
                    let Some(still_fit) = self.fit(delivery.into_raw()) else { return };
                    delivery = still_fit;
                }
                Next::Retry { delay, failures, reason } => {
                    warn!(message_id = %delivery.id(), failures, reason, delay_ms = clock::ms(delay), "failed: trying again later");
                    let now = clock::now();
                    let ending = Ending::retry(delivery, &self.queue, now, delay, failures, reason);
                    return self.end(ending);
                }
                Next::Dead { reason } => {
                    return self.dead(Some(delivery.id()), delivery.into_raw(), &reason);
                }
            }
        }
    }

    /// The delivery, if it can take effect; otherwise it ends here.
    fn fit(&self, raw: Raw) -> Option<Delivery> {
        let window = *self.window.borrow();
        match admit(raw.message_id(), window) {
            Ok(id) => Some(Delivery::new(id, raw)),
            Err(unfit) => {
                self.dead(unfit.id, raw, &unfit.reason);
                None
            }
        }
    }

    /// Waits a little while the delivery is held; `false` when the consumer stops meanwhile.
    async fn pause(&self, backoff: &mut Backoff, delivery: &Delivery, why: &str) -> bool {
        if backoff.is_worth_a_line() && self.complaints.are_due() {
            warn!(message_id = %delivery.id(), why, "cannot work now: holding the message");
        }
        tokio::select! {
            () = backoff.pause() => true,
            () = self.endings.stopping.cancelled() => false,
        }
    }

    fn processed(&self, delivery: Delivery) {
        self.end(Ending::processed(delivery, &self.queue, clock::now()));
    }

    fn dead(&self, id: Option<MessageId>, raw: Raw, reason: &str) {
        let message_id = raw.message_id();
        warn!(message_id, reason, "rejected: a person finds it in {}.dead", self.queue);
        self.end(Ending::dead(id, raw, &self.queue, clock::now(), reason));
    }

    fn end(&self, ending: Ending) {
        let play = ending.play(self.endings.clone());
        self.tasks.spawn(self.abandon.clone().run_until_cancelled_owned(play));
    }
}

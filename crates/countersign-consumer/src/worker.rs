//! From a delivery to a committed effect, or to the reason why there is none.

use countersign_postgres::Places;
use countersign_protocol::{MessageId, Window};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::after_try::{Next, RetryPolicy, TryEnd, after_try};
use crate::clock;
use crate::delivery::{Delivery, Raw};
use crate::effect::Effect;
use crate::ending::{Ending, Endings};
use crate::task_retry::{Shared, TaskRetry};
use crate::unfit::admit;

/// Tries deliveries until it is clear what becomes of them.
pub(crate) struct Worker<E> {
    pub(crate) effect: E,
    /// Which ids can take effect.
    pub(crate) places: watch::Receiver<Places>,
    pub(crate) policy: RetryPolicy,
    pub(crate) queue: String,
    pub(crate) endings: Endings,
    /// For the lines about what keeps the handlers from working at all.
    pub(crate) trouble: Shared,
    /// Where endings run, so that the handler's slot is free meanwhile.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the consumer takes no more deliveries.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when handlers and endings that still run have to be left behind.
    pub(crate) abandon: CancellationToken,
}

impl<E: Effect> Worker<E> {
    /// Works on deliveries that were taken together, until the transaction of each is over.
    ///
    /// # Cancel safety
    /// What was not committed is rolled back; what has no ack is delivered again.
    pub(crate) async fn work(&self, taken: Vec<Raw>) {
        let mut group = self.fit_all(taken).await;
        if group.len() > 1 {
            group = self.together(group).await;
        }
        for delivery in group {
            self.alone(delivery).await;
        }
    }

    /// Tries a group in one transaction. What is returned has to be done one by one.
    async fn together(&self, mut group: Vec<Delivery>) -> Vec<Delivery> {
        let mut retry = TaskRetry::new(&self.trouble);
        loop {
            match self.effect.attempt(&mut group).await {
                TryEnd::Committed | TryEnd::Duplicate => {
                    for delivery in group {
                        self.processed(delivery);
                    }
                    return Vec::new();
                }
                TryEnd::DatabaseAway(why) => {
                    if !self.pause(&mut retry, &group[0], &why).await {
                        return Vec::new();
                    }
                    group = self.fit_all(group.into_iter().map(Delivery::into_raw)).await;
                    if group.len() < 2 {
                        return group;
                    }
                }
                end => {
                    info!(messages = group.len(), ?end, "a batch failed: one by one now");
                    return group;
                }
            }
        }
    }

    /// Tries a delivery until it is clear what becomes of it.
    async fn alone(&self, mut delivery: Delivery) {
        let mut retry = TaskRetry::new(&self.trouble);
        let mut interrupted = 0;
        loop {
            let end = self.effect.attempt(std::slice::from_mut(&mut delivery)).await;
            match after_try(end, delivery.failures(), interrupted, &self.policy) {
                Next::Confirm => return self.processed(delivery),
                Next::Again { why, interruptions } => {
                    interrupted = interruptions;
                    if !self.pause(&mut retry, &delivery, &why).await {
                        return;
                    }
                    // The id may have become too old during the pause.
                    let mut still_fit = self.fit_all([delivery.into_raw()]).await;
                    let Some(fit) = still_fit.pop() else { return };
                    delivery = fit;
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

    /// The deliveries that can take effect; the others end here. None is left if the consumer stops while the
    /// clocks disagree: each is delivered again.
    async fn fit_all(&self, taken: impl IntoIterator<Item = Raw>) -> Vec<Delivery> {
        let Some(window) = self.window().await else { return Vec::new() };
        taken.into_iter().filter_map(|raw| self.fit(raw, window)).collect()
    }

    /// Which ids can take effect. While the clocks disagree the deliveries in hand are held, because by a wrong clock
    /// each of them would be too old or of the future. `None` when the consumer stops meanwhile.
    async fn window(&self) -> Option<Window> {
        let mut places = self.places.clone();
        let mut retry = TaskRetry::new(&self.trouble);
        loop {
            let why = match *places.borrow_and_update() {
                Ok(window) => return Some(window),
                Err(why) => why,
            };
            if retry.is_news(&why) {
                warn!(%why, "cannot work now: holding deliveries");
            }
            tokio::select! {
                changed = places.changed() => changed.ok()?,
                () = self.stopping.cancelled() => return None,
            }
        }
    }

    fn fit(&self, raw: Raw, window: Window) -> Option<Delivery> {
        match admit(raw.message_id(), window) {
            Ok(id) => Some(Delivery::new(id, raw)),
            Err(unfit) => {
                self.dead(unfit.id, raw, &unfit.reason);
                None
            }
        }
    }

    /// Holds the delivery for a pause; `false` when the consumer stops meanwhile.
    async fn pause(&self, retry: &mut TaskRetry<'_>, delivery: &Delivery, why: &str) -> bool {
        if retry.is_news(&why) {
            warn!(message_id = %delivery.id(), why, "cannot work now: holding the message");
        }
        tokio::select! {
            () = retry.pause() => true,
            () = self.stopping.cancelled() => false,
        }
    }

    fn processed(&self, delivery: Delivery) {
        self.end(Ending::processed(delivery, &self.queue, clock::now()));
    }

    fn dead(&self, id: Option<MessageId>, raw: Raw, reason: &str) {
        let message_id = raw.message_id();
        warn!(
            message_id,
            reason, "rejected: the message stands in {}.dead for an operator", self.queue
        );
        self.end(Ending::dead(id, raw, &self.queue, clock::now(), reason));
    }

    fn end(&self, ending: Ending) {
        let play = ending.play(self.endings.clone());
        self.tasks.spawn(self.abandon.clone().run_until_cancelled_owned(play));
    }
}

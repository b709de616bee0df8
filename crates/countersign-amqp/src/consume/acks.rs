//! Acking deliveries, many in one frame where possible.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_protocol::MessageId;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::consume::ack_window::{Ack, AckWindow};
use crate::consume::delivery::{DeliveryTag, SubscriptionId};
use crate::consume::hand::{Hand, Told};

/// Acks deliveries of one [`Consumer`](crate::Consumer). A clone acks for the same consumer.
#[derive(Clone, Debug, Default)]
pub struct Acks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: Mutex<Option<Open>>,
    given: Notify,
}

/// One subscription's deliveries.
#[derive(Debug)]
struct Open {
    subscribed: SubscriptionId,
    window: AckWindow,
    hand: Hand,
}

impl Acks {
    /// Acks a delivery, which has ended: the broker may forget the message. The call never waits. Acks
    /// that are given while earlier ones are being written leave together.
    ///
    /// A tag of an old epoch is ignored, because the broker has taken the message back. So is a tag
    /// of another consumer, and a tag that was acked before.
    pub fn ack(&self, tag: DeliveryTag) {
        self.done(tag);
        self.ack_early(tag);
    }

    /// Acks a delivery that has not ended: for a [`Gauge`](crate::Gauge) it is in hand until it is
    /// [done](Self::done).
    pub fn ack_early(&self, tag: DeliveryTag) {
        let first = self.with(tag, |open| open.window.give(tag.number)).unwrap_or_default();
        if first {
            self.0.given.notify_one();
        }
    }

    /// A delivery that was [acked early](Self::ack_early) has ended.
    pub fn done(&self, tag: DeliveryTag) {
        self.with(tag, |open| open.hand.end(tag.number));
    }

    /// A delivery has come.
    pub(crate) fn taken(&self, tag: DeliveryTag, id: Option<MessageId>) {
        self.with(tag, |open| open.hand.take(tag.number, id, Instant::now()));
    }

    /// What stands in the current subscription.
    pub(crate) fn told(
        &self,
        now: Instant,
        slow_after: Duration,
        most_slow: usize,
    ) -> Option<(SubscriptionId, Told)> {
        let open = self.open();
        let open = open.as_ref()?;
        Some((open.subscribed, open.hand.told(now, slow_after, most_slow)))
    }

    /// Does something with the subscription of this tag, if it is the current one.
    fn with<T>(&self, tag: DeliveryTag, act: impl FnOnce(&mut Open) -> T) -> Option<T> {
        let mut open = self.open();
        open.as_mut().filter(|open| open.subscribed == tag.subscribed).map(act)
    }

    /// Begins a new subscription; from now on only its tags count.
    pub(crate) fn begin(&self) -> SubscriptionId {
        let subscribed = SubscriptionId::next();
        let (window, hand) = (AckWindow::default(), Hand::default());
        *self.open() = Some(Open { subscribed, window, hand });
        subscribed
    }

    /// Ignores every ack from now on.
    pub(crate) fn end(&self) {
        *self.open() = None;
    }

    /// Waits until there is an ack to [`flush`](Self::flush).
    pub(crate) async fn given(&self) {
        self.0.given.notified().await;
    }

    /// The frames to send to the broker, in this order.
    pub(crate) fn flush(&self) -> Vec<Ack> {
        self.open().as_mut().map(|open| open.window.flush()).unwrap_or_default()
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn tag(subscribed: SubscriptionId, number: u64) -> DeliveryTag {
        DeliveryTag { subscribed, number }
    }

    #[test]
    fn an_ack_of_an_old_epoch_is_forgotten() {
        let acks = Acks::default();
        let old = acks.begin();
        acks.ack(tag(old, 1));
        let new = acks.begin();
        acks.ack(tag(old, 2));
        assert_eq!(acks.flush(), []);
        acks.ack(tag(new, 1));
        assert_eq!(acks.flush(), [Ack { number: 1, multiple: false }]);
        acks.end();
        acks.ack(tag(new, 2));
        assert_eq!(acks.flush(), []);
    }

    #[test]
    fn a_tag_of_another_consumer_is_forgotten() {
        let (one, other) = (Acks::default(), Acks::default());
        let (_, others) = (one.begin(), other.begin());
        one.ack(tag(others, 1));
        assert_eq!(one.flush(), []);
    }

    #[test]
    fn whoever_flushes_is_told_once_for_many() {
        let acks = Acks::default();
        let subscribed = acks.begin();
        for number in 1..=100 {
            acks.ack(tag(subscribed, number));
        }
        assert!(acks.given().now_or_never().is_some());
        assert_eq!(acks.flush(), [Ack { number: 100, multiple: true }]);
        assert!(acks.given().now_or_never().is_none());
    }
}

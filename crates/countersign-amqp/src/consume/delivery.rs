//! A message as it comes out of a queue.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::publish::message::{Properties, read_properties};

/// A message from the broker, to be acked by its tag.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The tag to ack the message by.
    pub tag: DeliveryTag,
    /// The exchange that the message was published to.
    pub exchange: String,
    /// The routing key that the message was published with.
    pub key: String,
    /// Whether the broker has delivered the message before, to any consumer.
    pub redelivered: bool,
    /// The message's properties.
    pub properties: Properties,
    /// The message's body.
    pub body: Bytes,
}

/// Names a delivery: its consumer, its epoch, its number. A delivery of an old epoch cannot be
/// acked any more, because the broker has taken the message back and delivers it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryTag {
    pub(crate) subscribed: SubscriptionId,
    pub(crate) number: u64,
}

impl DeliveryTag {
    /// Whether both are of one consumer in one epoch: if not, at most the newer one can still be acked.
    #[must_use]
    pub fn is_of_epoch_of(self, other: Self) -> bool {
        self.subscribed == other.subscribed
    }
}

/// A consumer in one epoch; no two subscriptions of a process are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubscriptionId(pub(crate) u64);

static SUBSCRIPTIONS: AtomicU64 = AtomicU64::new(0);

impl SubscriptionId {
    /// A new subscription.
    pub(crate) fn next() -> Self {
        Self(SUBSCRIPTIONS.fetch_add(1, Ordering::Relaxed))
    }
}

impl Delivery {
    pub(crate) fn read(subscribed: SubscriptionId, received: lapin::message::Delivery) -> Self {
        Self {
            tag: DeliveryTag { subscribed, number: received.delivery_tag },
            exchange: received.exchange.into(),
            key: received.routing_key.into(),
            redelivered: received.redelivered,
            properties: read_properties(&received.properties),
            body: received.data.into(),
        }
    }
}

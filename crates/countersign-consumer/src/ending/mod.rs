//! How a delivery ends: its copy is placed if it needs one, it is confirmed, it is acked, in that
//! order. No handler's slot is held meanwhile.

pub(crate) mod copies;

pub(crate) mod confirms;

pub(crate) mod blocked_broker;

use std::time::Duration;

use countersign_amqp::{Acks, DeliveryTag, Outgoing};
use countersign_protocol::confirm::ConfirmedMessage;
use countersign_protocol::{MessageId, Outcome, UnixMillis};
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use crate::delivery::{Delivery, Raw};
use crate::ending::confirms::{Confirms, Sent};
use crate::ending::copies::Copies;

/// What is left to do for a delivery once its transaction is over. The delivery's body is freed by then,
/// unless a copy of it is still to be placed.
#[derive(Debug)]
pub(crate) struct Ending {
    copy: Option<Outgoing>,
    /// `None` for a message without an id: the callback service knows messages by their ids.
    confirm: Option<ConfirmedMessage>,
    tag: DeliveryTag,
    _place: Option<OwnedSemaphorePermit>,
}

/// What brings deliveries to their end. A clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Endings {
    pub(crate) copies: Copies,
    pub(crate) confirms: Confirms,
    pub(crate) acks: Acks,
}

impl Ending {
    /// The message took effect, now or before.
    pub(crate) fn processed(delivery: Delivery, queue: &str, now: UnixMillis) -> Self {
        let id = delivery.id();
        let raw = delivery.into_raw();
        let confirm = entry(id, &raw, queue, now, Outcome::Processed);
        Self { copy: None, confirm: Some(confirm), tag: raw.tag(), _place: raw.place }
    }

    /// The handler failed for the `failures`th time, and the message comes back after `delay`.
    pub(crate) fn retry(
        delivery: Delivery,
        queue: &str,
        now: UnixMillis,
        delay: Duration,
        failures: u32,
        reason: String,
    ) -> Self {
        let id = delivery.id();
        let mut raw = delivery.into_raw();
        let outcome = Outcome::Retrying { until: now.after(delay), reason };
        let confirm = Some(entry(id, &raw, queue, now, outcome));
        let (tag, place) = (raw.tag(), raw.place.take());
        let copy = Some(copies::waiting(raw, queue, delay, failures));
        Self { copy, confirm, tag, _place: place }
    }

    /// This consumer will never process the message.
    pub(crate) fn dead(
        id: Option<MessageId>,
        mut raw: Raw,
        queue: &str,
        now: UnixMillis,
        reason: &str,
    ) -> Self {
        let (tag, place) = (raw.tag(), raw.place.take());
        let outcome = Outcome::Rejected { reason: reason.to_owned() };
        let confirm = id.map(|id| entry(id, &raw, queue, now, outcome));
        let copy = Some(copies::dead(raw, queue, reason));
        Self { copy, confirm, tag, _place: place }
    }

    /// Brings the delivery to its end. A delivery whose end has to be given up gets no ack, and the broker
    /// delivers the message again.
    ///
    /// # Cancel safety
    /// As if the process had died there: the message is delivered again.
    pub(crate) async fn play(self, endings: Endings) {
        if let Some(copy) = self.copy
            && !endings.copies.place(copy).await
        {
            debug!("a message could not be moved on: it is left to its next delivery");
            return;
        }
        if let Some(entry) = self.confirm {
            if endings.confirms.confirm(entry).await == Sent::GivenUp {
                return;
            }
            fail::fail_point!("consumer.confirmed", |_| std::process::abort());
        }
        endings.acks.ack(self.tag);
    }
}

fn entry(
    id: MessageId,
    raw: &Raw,
    queue: &str,
    now: UnixMillis,
    outcome: Outcome,
) -> ConfirmedMessage {
    ConfirmedMessage {
        id,
        outcome,
        upstream: raw.upstream(),
        queue: Some(queue.to_owned()),
        attempt: raw.attempt(),
        published_at: raw.published_at(),
        at: Some(now),
    }
}

//! Reading a queue from its head, and taking out of it only what a person chose.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, protocol};
use thiserror::Error as ThisError;
use tokio::time::{sleep, timeout};

use crate::connection::Connection;
use crate::connection::epoch::{self, Epoch};
use crate::consume::delivery::{Delivery, DeliveryTag, SubscriptionId};
use crate::error::{Error, within};

/// Reads what lies in a queue when it is opened, in its order, and holds all of it un-acked until
/// it is [closed](Self::close) or dropped. Then everything returns to the queue in its order, but
/// for what was [taken](Self::take). (Dropped, or killed, while it holds more than 2,000, nothing is
/// lost, but blocks of 2,000 may return in another order.)
///
/// For queues that only people read, such as the quarantine: meanwhile nobody else gets what it
/// holds, and each look counts as a delivery. Unlike a [`Consumer`](crate::Consumer) it ends with
/// its connection.
#[derive(Debug)]
pub struct Browser {
    epoch: Arc<Epoch>,
    queue: String,
    ready: u64,
    readers: u64,
    left: u64,
    /// Whether more may be delivered.
    reading: bool,
    /// In the order of the queue. A quorum queue lets one consumer hold so many and no more.
    shelves: Vec<Shelf>,
}

/// A message as it lies in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browsed {
    /// The message.
    pub delivery: Delivery,
    /// Where the broker took it from, if it is a dead letter.
    pub dead_letter: Option<DeadLetter>,
}

/// What the broker says about a message that it took out of a queue by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The queue that it lay in first.
    pub queue: String,
    /// Why it was taken out: `delivery_limit`, `expired`, `maxlen` or `rejected`.
    pub reason: String,
}

/// Why a queue cannot be read, or read on.
#[derive(Clone, Debug, ThisError)]
#[error(transparent)]
pub struct BrowseError(#[from] Error);

#[derive(Debug)]
struct Shelf {
    subscribed: SubscriptionId,
    channel: Channel,
    deliveries: lapin::Consumer,
    held: u16,
}

/// How long the broker may take for an answer. A queue without a leader gives none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// When nothing came for so long, the broker is asked whether anything is left.
const PAUSE: Duration = Duration::from_millis(100);
/// How long what is given back may take to be ready again.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The most that a quorum queue lets one consumer hold
/// (<https://www.rabbitmq.com/docs/quorum-queues>).
const SHELF: u16 = 2_000;

impl Browser {
    /// Begins to read a queue that exists.
    ///
    /// # Errors
    /// When there is no such queue, the broker does not answer, or the connection is closed.
    ///
    /// # Cancel safety
    /// Dropped, it holds nothing.
    pub async fn open(connection: &Connection, queue: &str) -> Result<Self, BrowseError> {
        let mut epochs = connection.epochs();
        let closed = || Error::EpochEnded { why: "the connection is closed".to_owned() };
        let epoch = epoch::next(&mut epochs).await.ok_or_else(closed)?;
        let channel = epoch.channel().await?;
        let (ready, readers) = look(&channel, queue).await?;
        let mut browser = Self {
            epoch,
            queue: queue.to_owned(),
            ready,
            readers,
            left: ready,
            reading: true,
            shelves: Vec::new(),
        };
        if ready > 0 {
            browser.add_shelf(channel).await?;
        }
        Ok(browser)
    }

    /// How many messages lay ready in the queue when it was opened: it reads no more than that.
    #[must_use]
    pub fn ready(&self) -> u64 {
        self.ready
    }

    /// How many others were reading the queue when it was opened. What they hold is not seen here.
    #[must_use]
    pub fn other_readers(&self) -> u64 {
        self.readers
    }

    /// The next message; `None` after the last.
    ///
    /// # Errors
    /// When the connection is lost, or the broker says that more is there and delivers nothing.
    ///
    /// # Cancel safety
    /// No message is lost, but one may not be told.
    pub async fn next(&mut self) -> Result<Option<Browsed>, BrowseError> {
        loop {
            if self.left == 0 {
                self.stop_reading().await?;
                return Ok(None);
            }
            if self.shelves.last().is_none_or(|shelf| shelf.held >= SHELF) {
                let channel = self.epoch.channel().await?;
                self.add_shelf(channel).await?;
            }
            let Some(shelf) = self.shelves.last_mut() else { return Ok(None) };
            if let Ok(received) = timeout(PAUSE, shelf.deliveries.next()).await {
                return self.read(received).map(Some);
            }
            // The answer comes after what was delivered before it, on the same channel.
            let (ready, _) = look(&shelf.channel, &self.queue).await?;
            if let Some(received) = shelf.deliveries.next().now_or_never() {
                return self.read(received).map(Some);
            }
            if ready == 0 {
                self.left = 0;
                continue;
            }
            let received =
                timeout(ANSWER_TIMEOUT, shelf.deliveries.next()).await.map_err(|_| {
                    Error::TimedOut { what: "the next message of the queue", after: ANSWER_TIMEOUT }
                })?;
            return self.read(received).map(Some);
        }
    }

    /// Takes one message out of the queue: it is gone when [`close`](Self::close) has returned.
    ///
    /// # Errors
    /// When the connection is lost; the message is in the queue again then.
    pub async fn take(&mut self, tag: DeliveryTag) -> Result<(), BrowseError> {
        let of = |shelf: &&mut Shelf| shelf.subscribed == tag.subscribed;
        let Some(shelf) = self.shelves.iter_mut().find(of) else { return Ok(()) };
        shelf.held = shelf.held.saturating_sub(1);
        let acking = shelf.channel.basic_ack(tag.number, BasicAckOptions { multiple: false });
        Ok(within(ANSWER_TIMEOUT, "sending acks", acking).await?)
    }

    /// Returns everything that was not taken to the queue, in its order. The queue has all of it a
    /// moment later.
    ///
    /// # Errors
    /// When the broker does not say that it is done: what was taken may be in the queue still.
    ///
    /// # Cancel safety
    /// Dropped, some of what was taken may be in the queue still.
    pub async fn close(mut self) -> Result<(), BrowseError> {
        self.stop_reading().await?;
        // One after the other, each when the one before is back: what is returned first comes first.
        let mut shelves = self.shelves.into_iter().peekable();
        while let Some(Shelf { channel, deliveries, held, .. }) = shelves.next() {
            let before = match shelves.peek() {
                Some(next) => look(&next.channel, &self.queue).await?.0,
                None => 0,
            };
            let closing = channel.close(protocol::constants::REPLY_SUCCESS, "read".into());
            let closed = within(ANSWER_TIMEOUT, "closing a reader", closing).await;
            drop(deliveries);
            closed?;
            if let Some(next) = shelves.peek() {
                returned(&next.channel, &self.queue, before + u64::from(held)).await?;
            }
        }
        Ok(())
    }

    /// A shelf with room would get what another returns, and return it last.
    async fn stop_reading(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.reading) {
            return Ok(());
        }
        for Shelf { channel, deliveries, .. } in &self.shelves {
            let cancelling = channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default());
            within(ANSWER_TIMEOUT, "stopping to read", cancelling).await?;
        }
        Ok(())
    }

    async fn add_shelf(&mut self, channel: Channel) -> Result<(), Error> {
        let queue = &self.queue;
        let name = short(queue)?;
        let subscribing = async {
            channel.basic_qos(SHELF, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            channel
                .basic_consume(name, ShortString::default(), options, FieldTable::default())
                .await
        };
        let named = async {
            subscribing.await.map_err(|cause| Error::Consuming { queue: queue.clone(), cause })
        };
        let deliveries = within(ANSWER_TIMEOUT, "subscribing", named).await?;
        self.shelves.push(Shelf {
            subscribed: SubscriptionId::next(),
            channel,
            deliveries,
            held: 0,
        });
        Ok(())
    }

    fn read(
        &mut self,
        received: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Result<Browsed, BrowseError> {
        let queue = self.queue.clone();
        let received = match received {
            Some(Ok(received)) => received,
            Some(Err(cause)) => return Err(Error::Consuming { queue, cause }.into()),
            None => return Err(Error::Cancelled { queue }.into()),
        };
        let Some(shelf) = self.shelves.last_mut() else {
            return Err(Error::Cancelled { queue }.into());
        };
        shelf.held += 1;
        self.left -= 1;
        let dead_letter = dead_letter(&received);
        Ok(Browsed { delivery: Delivery::read(shelf.subscribed, received), dead_letter })
    }
}

/// Waits until so many messages are ready in a queue: it learns of a closed channel a moment after
/// the channel is closed.
async fn returned(channel: &Channel, queue: &str, messages: u64) -> Result<(), Error> {
    let all = async {
        while look(channel, queue).await?.0 < messages {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    // Whoever else reads the queue takes some of them: then their order is not ours to keep.
    timeout(RETURN_TIMEOUT, all).await.unwrap_or(Ok(()))
}

/// How many messages are ready in a queue, and how many read it.
async fn look(channel: &Channel, queue: &str) -> Result<(u64, u64), Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let name = short(queue)?;
    let asking = async {
        let found = channel.queue_declare(name, options, FieldTable::default()).await;
        found.map_err(|cause| Error::Consuming { queue: queue.to_owned(), cause })
    };
    let found = within(ANSWER_TIMEOUT, "looking at a queue", asking).await?;
    Ok((found.message_count().into(), found.consumer_count().into()))
}

fn dead_letter(received: &lapin::message::Delivery) -> Option<DeadLetter> {
    let headers = received.properties.headers().as_ref()?;
    let text = |name: &str| match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    };
    Some(DeadLetter { queue: text("x-first-death-queue")?, reason: text("x-first-death-reason")? })
}

fn short(queue: &str) -> Result<ShortString, Error> {
    ShortString::try_new(queue).map_err(|_| Error::NameTooLong { what: queue.to_owned() })
}

//! Reading a queue from its head, and taking single messages out of it.

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

/// Reads the messages that lie in a queue when it is opened, in the queue's order, and holds all of
/// them un-acked until it is [closed](Self::close) or dropped. Then the messages return to the
/// queue in their order, except those that were [taken](Self::take). (A browser that is dropped or
/// killed while it holds more than 2,000 messages loses none, but blocks of 2,000 may return in
/// another order.)
///
/// For queues that only people read, such as the quarantine: other consumers do not get the
/// messages that a browser holds, and each look counts as a delivery. Unlike a
/// [`Consumer`](crate::Consumer) a browser ends with its connection.
#[derive(Debug)]
pub struct Browser {
    epoch: Arc<Epoch>,
    queue: String,
    ready: u64,
    readers: u64,
    left: u64,
    /// Whether the broker may deliver more.
    reading: bool,
    /// Channels with their messages, in the order of the queue. Several, because a quorum queue
    /// lets one consumer hold no more than [`SHELF`] messages.
    shelves: Vec<Shelf>,
}

/// A message as it lies in a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Browsed {
    /// The message itself.
    pub delivery: Delivery,
    /// Where the broker took the message from, if it is a dead letter.
    pub dead_letter: Option<DeadLetter>,
}

/// What the broker says about a message that it took out of a queue by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The queue that the message lay in first.
    pub queue: String,
    /// Why the broker took it out: `delivery_limit`, `expired`, `maxlen` or `rejected`.
    pub reason: String,
}

/// Why a queue cannot be read, or not read on.
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

/// How long the broker may take to answer. A queue without a leader never answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// After this long without a delivery, the browser asks the broker whether messages are left. A
/// broker on the same network delivers within a few milliseconds.
const PAUSE: Duration = Duration::from_millis(100);
/// How long returned messages may take to be ready in the queue again. After that the browser
/// closes anyway: only their order is at stake.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The most messages that a quorum queue lets one consumer hold
/// (<https://www.rabbitmq.com/docs/quorum-queues>).
const SHELF: u16 = 2_000;

impl Browser {
    /// Begins to read a queue, which has to exist.
    ///
    /// # Errors
    /// When there is no such queue, the broker does not answer, or the connection is closed.
    ///
    /// # Cancel safety
    /// A future that is dropped holds no message.
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

    /// How many messages lay ready in the queue when it was opened. The browser reads no more than
    /// these.
    #[must_use]
    pub fn ready(&self) -> u64 {
        self.ready
    }

    /// How many other consumers were reading the queue when it was opened. The browser does not see
    /// the messages that they hold.
    #[must_use]
    pub fn other_readers(&self) -> u64 {
        self.readers
    }

    /// The next message; `None` after the last.
    ///
    /// # Errors
    /// When the connection is lost, or the broker counts more messages and delivers none.
    ///
    /// # Cancel safety
    /// When the future is dropped, no message is lost, but the caller may not be shown one.
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
            // The broker answers after the deliveries that it sent before, on the same channel.
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

    /// Takes one message out of the queue: the queue no longer has it when [`close`](Self::close)
    /// has returned.
    ///
    /// # Errors
    /// When the connection is lost; the queue then has the message again.
    pub async fn take(&mut self, tag: DeliveryTag) -> Result<(), BrowseError> {
        let of = |shelf: &&mut Shelf| shelf.subscribed == tag.subscribed;
        let Some(shelf) = self.shelves.iter_mut().find(of) else { return Ok(()) };
        shelf.held = shelf.held.saturating_sub(1);
        let acking = shelf.channel.basic_ack(tag.number, BasicAckOptions { multiple: false });
        Ok(within(ANSWER_TIMEOUT, "sending acks", acking).await?)
    }

    /// Returns every message that was not taken to the queue, in its order. The queue has all of
    /// them by then, unless another reader takes some.
    ///
    /// # Errors
    /// When the broker does not confirm the end: messages that were taken may still be in the
    /// queue.
    ///
    /// # Cancel safety
    /// When the future is dropped, some of the taken messages may still be in the queue.
    pub async fn close(mut self) -> Result<(), BrowseError> {
        self.stop_reading().await?;
        let looking = self.epoch.channel().await?;
        // The shelves close one after the other, each when the messages of the one before are back:
        // the queue puts messages in the order in which they return.
        for Shelf { channel, deliveries, held, .. } in self.shelves {
            let before = look(&looking, &self.queue).await?.0;
            let closing = channel.close(protocol::constants::REPLY_SUCCESS, "read".into());
            let closed = within(ANSWER_TIMEOUT, "closing a reader", closing).await;
            drop(deliveries);
            closed?;
            returned(&looking, &self.queue, before + u64::from(held)).await?;
        }
        // The channel would end with its connection, too.
        let closing = looking.close(protocol::constants::REPLY_SUCCESS, "looked".into());
        let _ = within(ANSWER_TIMEOUT, "closing a channel", closing).await;
        Ok(())
    }

    /// Stops deliveries on all shelves: a shelf with room would get the messages that another
    /// returns, and return them last.
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

/// Waits until this many messages are ready in a queue. The queue learns of a closed channel a
/// moment after the channel is closed.
async fn returned(channel: &Channel, queue: &str, messages: u64) -> Result<(), Error> {
    let all = async {
        while look(channel, queue).await?.0 < messages {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    // Another reader of the queue may take some of them; their order is then out of our hands.
    timeout(RETURN_TIMEOUT, all).await.unwrap_or(Ok(()))
}

/// How many messages are ready in a queue, and how many consumers read it.
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

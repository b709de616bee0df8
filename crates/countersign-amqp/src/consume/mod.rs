//! Consuming one queue.

pub(crate) mod delivery;

pub(crate) mod acks;

pub(crate) mod ack_window;

pub(crate) mod browser;

pub(crate) mod depth;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, protocol};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::connection::Connection;
use crate::connection::epoch::{self, Epoch};
use crate::consume::acks::Acks;
use crate::consume::delivery::{Delivery, SubscriptionId};
use crate::error::{Error, within};

/// What to consume, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The queue.
    pub queue: String,
    /// How many deliveries may be without an ack, 1 to 2,000 (a quorum queue takes no more). It
    /// also bounds what this process holds of the queue.
    pub prefetch: u16,
    /// The consumer's priority (`x-priority`): those with the highest are served first. None is 0.
    pub priority: Option<i32>,
}

/// A consumer of one queue. It subscribes again whenever the connection is built anew; what it held
/// un-acked comes again then.
///
/// Dropping it is closing it, without waiting.
#[derive(Debug)]
pub struct Consumer {
    current: Option<Stream>,
    streams: mpsc::Receiver<Stream>,
    acks: Acks,
    closing: Option<oneshot::Sender<Vec<Stream>>>,
    /// Ends when the channel is closed.
    task: Option<JoinHandle<()>>,
}

impl Consumer {
    /// Starts consuming on this connection, which should have no publishers: a broker alarm would
    /// stop the acks.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(connection: &Connection, subscription: Subscription) -> Self {
        let acks = Acks::default();
        let (closing, closed) = oneshot::channel();
        let (offers, streams) = mpsc::channel(1);
        let subscriber = Subscriber {
            connection: connection.clone(),
            subscription,
            acks: acks.clone(),
            offers,
            closed,
        };
        let task = tokio::spawn(subscriber.run());
        Self { current: None, streams, acks, closing: Some(closing), task: Some(task) }
    }

    /// The next delivery; `None` after the connection was closed.
    ///
    /// # Cancel safety
    /// No delivery is lost by dropping the future.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(stream) = &mut self.current {
                if let Some(delivery) = stream.next().await {
                    return Some(delivery);
                }
                self.current = None;
            }
            self.current = Some(self.streams.recv().await?);
        }
    }

    /// Waits for one delivery and takes what else is there, up to `max` (at least 1); empty after
    /// the connection was closed.
    ///
    /// # Cancel safety
    /// No delivery is lost by dropping the future.
    pub async fn next_batch(&mut self, max: usize) -> Vec<Delivery> {
        let Some(first) = self.next().await else { return Vec::new() };
        let mut batch = vec![first];
        while batch.len() < max
            && let Some(delivery) = self.current.as_mut().and_then(Stream::next_now)
        {
            batch.push(delivery);
        }
        batch
    }

    /// What its deliveries are acked with.
    #[must_use]
    pub fn acks(&self) -> Acks {
        self.acks.clone()
    }

    /// Sends the acks that were given, then closes the channel. The subscription is not cancelled
    /// first: that would let another consumer go on while this one still holds deliveries, and
    /// they would come out of order. What is not acked returns to the queue.
    ///
    /// # Cancel safety
    /// It is closed even if this is dropped.
    pub async fn close(mut self) {
        let task = self.task.take();
        drop(self);
        if let Some(task) = task {
            // An error is a panic, which was reported where it happened.
            let _ = task.await;
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.streams.close();
        let mut streams: Vec<_> = self.current.take().into_iter().collect();
        streams.extend(std::iter::from_fn(|| self.streams.try_recv().ok()));
        if let Some(closing) = self.closing.take() {
            // Fails if the connection was closed before.
            let _ = closing.send(streams);
        }
    }
}

/// What one epoch delivers.
#[derive(Debug)]
struct Stream {
    subscribed: SubscriptionId,
    epoch: Arc<Epoch>,
    queue: String,
    deliveries: lapin::Consumer,
}

impl Stream {
    /// `None` when the epoch has ended.
    async fn next(&mut self) -> Option<Delivery> {
        if let Some(delivery) = self.next_now() {
            return Some(delivery);
        }
        tokio::select! {
            biased;
            () = self.epoch.ended() => None,
            received = self.deliveries.next() => self.read(received),
        }
    }

    /// `None` when there is none right now.
    fn next_now(&mut self) -> Option<Delivery> {
        if self.epoch.is_ended() {
            return None;
        }
        let received = self.deliveries.next().now_or_never()?;
        self.read(received)
    }

    fn read(&self, received: Option<lapin::Result<lapin::message::Delivery>>) -> Option<Delivery> {
        let queue = || self.queue.clone();
        match received {
            Some(Ok(received)) => return Some(Delivery::read(self.subscribed, received)),
            Some(Err(cause)) => self.epoch.fail(&Error::Consuming { queue: queue(), cause }),
            None => self.epoch.fail(&Error::Cancelled { queue: queue() }),
        }
        None
    }
}

/// How long the broker may take to subscribe. A queue that has no leader yet takes longer.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the socket may take acks no more before the connection counts as lost.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last acks and the end of the channel may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that a quorum queue takes (<https://www.rabbitmq.com/docs/quorum-queues>).
const MAX_PREFETCH: u16 = 2_000;

/// The task of a consumer: subscribes, sends acks, closes.
struct Subscriber {
    connection: Connection,
    subscription: Subscription,
    acks: Acks,
    offers: mpsc::Sender<Stream>,
    closed: oneshot::Receiver<Vec<Stream>>,
}

impl Subscriber {
    async fn run(mut self) {
        let mut epochs = self.connection.epochs();
        loop {
            let epoch = tokio::select! {
                _ = &mut self.closed => return,
                epoch = epoch::next(&mut epochs) => epoch,
            };
            let Some(epoch) = epoch else { return };
            let ended = self.consume_in(&epoch).await;
            self.acks.end();
            match ended {
                Ok(ConsumeStop::Closed) => return,
                Ok(ConsumeStop::EpochEnded) => {}
                Err(error) => epoch.fail(&error),
            }
        }
    }

    async fn consume_in(&mut self, epoch: &Arc<Epoch>) -> Result<ConsumeStop, Error> {
        // Not before the application has seen the end of the last: what it does not take piles up.
        let offer = tokio::select! {
            biased;
            _ = &mut self.closed => return Ok(ConsumeStop::Closed),
            () = epoch.ended() => return Ok(ConsumeStop::EpochEnded),
            offer = self.offers.reserve() => offer,
        };
        let Ok(offer) = offer else { return Ok(ConsumeStop::Closed) };
        let channel = epoch.channel().await?;
        let subscribed = self.acks.begin();
        let deliveries = subscribe(&channel, &self.subscription).await?;
        let queue = self.subscription.queue.clone();
        offer.send(Stream { subscribed, epoch: Arc::clone(epoch), queue, deliveries });
        loop {
            tokio::select! {
                biased;
                // The streams are kept until the channel is closed: dropping one cancels it.
                streams = &mut self.closed => {
                    let closing = close(&channel, &self.acks);
                    if let Err(error) = within(CLOSE_TIMEOUT, "closing a consumer", closing).await {
                        warn!(queue = self.subscription.queue, %error, "not closed in order");
                    }
                    drop(streams);
                    return Ok(ConsumeStop::Closed);
                }
                () = epoch.ended() => return Ok(ConsumeStop::EpochEnded),
                () = self.acks.given() => {
                    within(ACK_TIMEOUT, "sending acks", tell(&channel, &self.acks)).await?;
                }
            }
        }
    }
}

async fn subscribe(
    channel: &Channel,
    subscription: &Subscription,
) -> Result<lapin::Consumer, Error> {
    let Subscription { queue, prefetch, priority } = subscription;
    let mut arguments = FieldTable::default();
    if let Some(priority) = priority {
        arguments.insert("x-priority".into(), AMQPValue::LongInt(*priority));
    }
    let name = ShortString::try_new(queue.as_str())
        .map_err(|_| Error::NameTooLong { what: queue.clone() })?;
    let subscribing = async {
        // Before consuming: the client's buffer has no bound of its own.
        let prefetch = (*prefetch).clamp(1, MAX_PREFETCH);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        channel.basic_consume(name, ShortString::default(), options, arguments).await
    };
    let named = async {
        subscribing.await.map_err(|cause| Error::Consuming { queue: queue.clone(), cause })
    };
    within(SUBSCRIBE_TIMEOUT, "subscribing", named).await
}

async fn tell(channel: &Channel, acks: &Acks) -> Result<(), lapin::Error> {
    let frames = acks.flush();
    let telling = frames
        .into_iter()
        .map(|ack| channel.basic_ack(ack.number, BasicAckOptions { multiple: ack.multiple }));
    try_join_all(telling).await.map(drop)
}

async fn close(channel: &Channel, acks: &Acks) -> Result<(), lapin::Error> {
    tell(channel, acks).await?;
    channel.close(protocol::constants::REPLY_SUCCESS, "closed".into()).await
}

/// Why a consumer stopped consuming in an epoch.
enum ConsumeStop {
    EpochEnded,
    Closed,
}

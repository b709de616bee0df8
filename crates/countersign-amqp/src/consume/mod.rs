//! Consuming one queue.

pub(crate) mod delivery;

pub(crate) mod acks;

pub(crate) mod ack_window;

pub(crate) mod hand;

pub(crate) mod gauge;

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
use crate::consume::gauge::{Gauge, Question};
use crate::error::{Error, within};

/// Which queue to consume, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The queue's name.
    pub queue: String,
    /// How many deliveries the consumer may hold un-acked, 1 to 2,000 (a quorum queue allows no
    /// more). It also bounds how many messages of the queue this process keeps in memory.
    pub prefetch: u16,
    /// The consumer's priority (`x-priority`): the broker serves the highest first. `None` counts
    /// as 0.
    pub priority: Option<i32>,
}

/// A consumer of one queue. It subscribes again whenever the connection is built anew; the broker
/// then delivers again the messages that it held un-acked.
///
/// Dropping a consumer closes it, without waiting.
#[derive(Debug)]
pub struct Consumer {
    connection: Connection,
    queue: String,
    current: Option<Stream>,
    streams: mpsc::Receiver<Stream>,
    acks: Acks,
    questions: mpsc::Sender<Question>,
    closing: Option<oneshot::Sender<()>>,
    /// The task that subscribes and acks; it ends when the channel is closed.
    task: Option<JoinHandle<()>>,
}

impl Consumer {
    /// Starts to consume on this connection, which should have no publishers: on a connection that
    /// publishes, a broker alarm stops the acks, too.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(connection: &Connection, subscription: Subscription) -> Self {
        let acks = Acks::default();
        let (closing, closed) = oneshot::channel();
        let (offers, streams) = mpsc::channel(1);
        let (questions, asked) = mpsc::channel(1);
        let queue = subscription.queue.clone();
        let subscriber = Subscriber {
            connection: connection.clone(),
            subscription,
            acks: acks.clone(),
            offers,
            asked,
            closed,
            last: None,
        };
        let task = Some(tokio::spawn(subscriber.run()));
        let (connection, closing) = (connection.clone(), Some(closing));
        Self { connection, queue, current: None, streams, acks, questions, closing, task }
    }

    /// The next delivery. Returns `None` after the connection was closed.
    ///
    /// # Cancel safety
    /// No delivery is lost when the future is dropped.
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

    /// Waits for one delivery and adds the deliveries that are already there, up to `max` (at least
    /// 1). The list is empty after the connection was closed.
    ///
    /// # Cancel safety
    /// No delivery is lost when the future is dropped.
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

    /// The handle that acks this consumer's deliveries.
    #[must_use]
    pub fn acks(&self) -> Acks {
        self.acks.clone()
    }

    /// The handle that tells what this consumer holds of its queue.
    #[must_use]
    pub fn gauge(&self) -> Gauge {
        Gauge::new(self.connection.clone(), self.queue.clone(), self.questions.clone())
    }

    /// Sends the acks that were given, then closes the channel. The subscription is not cancelled
    /// first: after a cancel the broker serves another consumer while this one still holds
    /// deliveries, and messages would come out of order. Deliveries without an ack return to the
    /// queue.
    ///
    /// # Cancel safety
    /// The consumer closes even if this future is dropped.
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
        if let Some(closing) = self.closing.take() {
            // The send fails if the connection was closed before.
            let _ = closing.send(());
        }
    }
}

/// The deliveries of one epoch, as the consumer's task hands them over.
#[derive(Debug)]
struct Stream {
    epoch: Arc<Epoch>,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
}

impl Stream {
    /// The next delivery of this epoch; `None` when the epoch has ended.
    async fn next(&mut self) -> Option<Delivery> {
        if let Some(delivery) = self.next_now() {
            return Some(delivery);
        }
        tokio::select! {
            biased;
            () = self.epoch.ended() => None,
            delivery = self.deliveries.recv() => delivery,
        }
    }

    /// A delivery that is already there; `None` when there is none.
    fn next_now(&mut self) -> Option<Delivery> {
        if self.epoch.is_ended() {
            return None;
        }
        self.deliveries.try_recv().ok()
    }
}

/// Takes deliveries from the client's buffer as they come, and counts them: what lies in that buffer is in
/// this consumer's hands, too. The prefetch bounds what it hands over, as it bounds the buffer.
struct Pump {
    subscribed: SubscriptionId,
    queue: String,
    source: lapin::Consumer,
    acks: Acks,
    taken: mpsc::UnboundedSender<Delivery>,
}

impl Pump {
    /// Waits for a delivery and takes it.
    async fn one(&mut self) -> Result<(), Error> {
        let received = self.source.next().await;
        self.take(received)
    }

    /// Takes every delivery that is already there.
    fn all(&mut self) -> Result<(), Error> {
        while let Some(received) = self.source.next().now_or_never() {
            self.take(received)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        received: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Result<(), Error> {
        let queue = || self.queue.clone();
        let received = match received {
            Some(Ok(received)) => received,
            Some(Err(cause)) => return Err(Error::Consuming { queue: queue(), cause }),
            None => return Err(Error::Cancelled { queue: queue() }),
        };
        let delivery = Delivery::read(self.subscribed, received);
        let id = delivery.properties.message_id.as_deref().and_then(|id| id.parse().ok());
        self.acks.taken(delivery.tag, id);
        // The application has dropped the consumer: the delivery goes back when the channel closes.
        let _ = self.taken.send(delivery);
        Ok(())
    }
}

/// How long the broker may take to subscribe. A queue that is still electing its leader takes
/// seconds.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the socket may take no acks before the connection counts as lost. The heartbeat needs
/// up to 20 s to notice the same.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last acks and the end of the channel may take, so that closing leaves most of a
/// drain to the work in hand.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that a quorum queue allows (<https://www.rabbitmq.com/docs/quorum-queues>).
const MAX_PREFETCH: u16 = 2_000;

/// The task of a consumer: subscribes, takes deliveries, sends acks, answers its gauge, closes.
struct Subscriber {
    connection: Connection,
    subscription: Subscription,
    acks: Acks,
    offers: mpsc::Sender<Stream>,
    asked: mpsc::Receiver<Question>,
    closed: oneshot::Receiver<()>,
    /// The client's consumer of the last epoch. It lives until the next one is subscribed, when the old
    /// connection is closed: dropped before, it would be cancelled, and messages would come out of order.
    last: Option<Pump>,
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
        // The application sees the end of the old epoch first: deliveries that it does not take
        // pile up.
        let offer = tokio::select! {
            biased;
            _ = &mut self.closed => return Ok(ConsumeStop::Closed),
            () = epoch.ended() => return Ok(ConsumeStop::EpochEnded),
            offer = self.offers.reserve() => offer,
        };
        let Ok(offer) = offer else { return Ok(ConsumeStop::Closed) };
        let channel = epoch.channel().await?;
        let subscribed = self.acks.begin();
        let source = subscribe(&channel, &self.subscription).await?;
        let (taken, deliveries) = mpsc::unbounded_channel();
        offer.send(Stream { epoch: Arc::clone(epoch), deliveries });
        let (queue, acks) = (self.subscription.queue.clone(), self.acks.clone());
        let pump = self.last.insert(Pump { subscribed, queue, source, acks, taken });
        // The gauge's question whose round trip on the channel is under way.
        let mut asking: Option<(Question, _)> = None;
        loop {
            tokio::select! {
                biased;
                _ = &mut self.closed => {
                    let closing = close(&channel, &self.acks);
                    if let Err(error) = within(CLOSE_TIMEOUT, "closing a consumer", closing).await {
                        warn!(queue = self.subscription.queue, %error, "consumer not closed in order");
                    }
                    return Ok(ConsumeStop::Closed);
                }
                () = epoch.ended() => return Ok(ConsumeStop::EpochEnded),
                () = self.acks.given() => {
                    within(ACK_TIMEOUT, "sending acks", tell(&channel, &self.acks)).await?;
                    // Acks that are given without a pause keep no delivery waiting.
                    pump.all()?;
                }
                Some(question) = self.asked.recv(), if asking.is_none() => {
                    let prefetch = self.subscription.prefetch.clamp(1, MAX_PREFETCH);
                    let channel = channel.clone();
                    let flushing = async move {
                        // The channel's process answers by itself: what it had delivered before has
                        // arrived. The prefetch is that of later consumers, and there are none.
                        channel.basic_qos(prefetch, BasicQosOptions::default()).await
                    };
                    asking = Some((question, Box::pin(flushing)));
                }
                flushed = flushed(&mut asking) => {
                    pump.all()?;
                    if let (Some((question, _)), Ok(())) = (asking.take(), flushed) {
                        question.answer(&self.acks);
                    }
                }
                pumped = pump.one() => {
                    pumped?;
                    pump.all()?;
                }
            }
        }
    }
}

/// Waits until the round trip of the question is over; for ever if none is under way.
async fn flushed<F>(asking: &mut Option<(Question, std::pin::Pin<Box<F>>)>) -> lapin::Result<()>
where
    F: Future<Output = lapin::Result<()>>,
{
    match asking {
        Some((_, flushing)) => flushing.await,
        None => std::future::pending().await,
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
        // The prefetch is set before consuming, because the client's buffer has no bound of its
        // own.
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

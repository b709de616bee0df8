//! Publishing: every message gets its own outcome.

pub(crate) mod message;

pub(crate) mod outcome;

pub(crate) mod waiting;

pub(crate) mod flight;

pub(crate) mod returns;

pub(crate) mod batcher;

use std::sync::Arc;
use std::time::Duration;

use countersign_protocol::envelope::MAX_BODY_BYTES;
use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::connection::epoch::{self, Epoch};
use crate::connection::link::LinkState;
use crate::error::{Error, within};
use crate::publish::flight::Flight;
use crate::publish::message::{Outgoing, Prepared, prepare};
use crate::publish::outcome::{NotTaken, Pending, PublishOutcome};
use crate::publish::waiting::{Batch, Limits, Waiting};

/// How a [`Publisher`] publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublisherSettings {
    /// How many messages may be without an outcome, waiting and sent; further ones are
    /// [`NotTaken::Overloaded`]. Too low: the publisher refuses peaks that the broker would take
    /// within milliseconds. Too high: in trouble, callers learn late. Default: 10,000.
    pub max_waiting: usize,
    /// How many bytes the bodies of these messages may have together, at least one largest body.
    /// Default: 64 MiB.
    pub max_waiting_bytes: usize,
    /// How many bytes one body may have; a larger one is [`NotTaken::TooLarge`]. Too high: RabbitMQ
    /// answers a message over its own `max_message_size` (16 MiB in 4.x) by closing the channel.
    /// Default: 1 MiB, as in the wire contract.
    pub max_body_bytes: usize,
    /// How many channels the publisher uses, at least 1. While one channel waits for the confirms
    /// of its batch, the next fills another. Default: 4.
    pub channels: u16,
    /// How many messages one channel publishes before it waits for all their confirms, at least 1.
    /// Default: 1,000.
    pub max_batch: usize,
    /// How long the broker may take to confirm a batch. Messages without a confirm are then
    /// [`Unknown`](PublishOutcome::Unknown), and the supervisor builds the connection anew, unless
    /// the broker blocks it. A queue without a leader never confirms. Too low: a slow disk looks
    /// like a lost leader. Default: 10 s.
    pub confirm_timeout: Duration,
}

impl Default for PublisherSettings {
    fn default() -> Self {
        Self {
            max_waiting: 10_000,
            max_waiting_bytes: 64 * 1024 * 1024,
            max_body_bytes: MAX_BODY_BYTES,
            channels: 4,
            max_batch: 1_000,
            confirm_timeout: Duration::from_secs(10),
        }
    }
}

/// Publishes messages. A clone is the same publisher.
///
/// The exchange must exist (the connection's topology can declare it). RabbitMQ answers a message
/// to a missing exchange by closing the channel: the supervisor then builds the connection anew,
/// and all messages on their way are [`Unknown`](PublishOutcome::Unknown).
///
/// Dropping the last clone closes the publisher, which still publishes the messages it has taken.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    waiting: Arc<Waiting<Prepared>>,
    max_body_bytes: usize,
    link: watch::Receiver<LinkState>,
    abandon: CancellationToken,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.waiting.close();
    }
}

impl Publisher {
    /// Starts a publisher on this connection, which should have no consumers: on a connection that
    /// publishes, a broker alarm stops the acks, too.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(connection: &Connection, settings: PublisherSettings) -> Self {
        let waiting = Waiting::new(Limits {
            entries: settings.max_waiting,
            bytes: settings.max_waiting_bytes.max(settings.max_body_bytes),
        });
        let abandon = CancellationToken::new();
        for _ in 0..settings.channels.max(1) {
            let lane = Lane {
                connection: connection.clone(),
                waiting: Arc::clone(&waiting),
                most: Limits { entries: settings.max_batch.max(1), bytes: MAX_BATCH_BYTES },
                confirm_timeout: settings.confirm_timeout,
            };
            tokio::spawn(abandon.clone().run_until_cancelled_owned(lane.run()));
        }
        let link = connection.state();
        let giving_up = give_up_while_away(Arc::clone(&waiting), link.clone());
        tokio::spawn(abandon.clone().run_until_cancelled_owned(giving_up));
        let max_body_bytes = settings.max_body_bytes;
        Self(Arc::new(Handle { waiting, max_body_bytes, link, abandon }))
    }

    /// Hands a message over. The call never waits. A message that the publisher has taken may still
    /// not reach the broker; its outcome says whether it did.
    ///
    /// # Errors
    /// When the publisher cannot take the message; nothing of it was sent.
    pub fn publish(&self, message: Outgoing) -> Result<Pending, NotTaken> {
        let bytes = message.body.len();
        if bytes > self.0.max_body_bytes {
            return Err(NotTaken::TooLarge(bytes));
        }
        match prepare(message) {
            Ok(prepared) => self.0.waiting.push(prepared, bytes, || self.0.link.borrow().away()),
            Err(why) => Ok(Pending::known(PublishOutcome::Unroutable { why })),
        }
    }

    /// The state of the publisher's connection, now and from now on.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.0.link.clone()
    }

    /// Takes no further messages, and waits until every message taken has its outcome. After
    /// `deadline` the rest is [`Unknown`](PublishOutcome::Unknown).
    ///
    /// # Cancel safety
    /// The publisher takes no further messages even if this future is dropped.
    pub async fn close(&self, deadline: Duration) {
        self.0.waiting.close();
        if timeout(deadline, self.0.waiting.finished()).await.is_err() {
            let why = || Some("the publisher was closed before it was sent".to_owned());
            self.0.waiting.give_up(why);
            self.0.abandon.cancel();
            self.0.waiting.finished().await;
        }
    }
}

/// How many bytes of bodies one batch holds. The client copies them, so it holds this times the
/// number of channels.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long the broker may take to turn confirms on.
const CONFIRM_SELECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Gives up the messages that wait while the broker is away: when the broker returns is unknown,
/// and the caller can decide better what to do meanwhile.
async fn give_up_while_away(waiting: Arc<Waiting<Prepared>>, mut link: watch::Receiver<LinkState>) {
    let mut there = true;
    while there {
        tokio::select! {
            () = waiting.finished() => return,
            changed = link.changed() => there = changed.is_ok(),
        }
        let away = || link.borrow_and_update().away().map(|why| format!("not sent: {why}"));
        waiting.give_up(away);
    }
}

/// One channel, and the one task that publishes on it.
struct Lane {
    connection: Connection,
    waiting: Arc<Waiting<Prepared>>,
    most: Limits,
    confirm_timeout: Duration,
}

impl Lane {
    async fn run(self) {
        let mut epochs = self.connection.epochs();
        loop {
            let epoch = tokio::select! {
                () = self.waiting.finished() => return,
                epoch = epoch::next(&mut epochs) => epoch,
            };
            let Some(epoch) = epoch else { return };
            match self.publish_in(&epoch).await {
                Ok(LaneStop::Drained) => return,
                Ok(LaneStop::EpochEnded) => {}
                Err(error) => epoch.fail(&error),
            }
        }
    }

    async fn publish_in(&self, epoch: &Epoch) -> Result<LaneStop, Error> {
        let channel = epoch.channel().await?;
        let confirming = channel.confirm_select(ConfirmSelectOptions::default());
        within(CONFIRM_SELECT_TIMEOUT, "turning confirms on", confirming).await?;
        loop {
            let batch = tokio::select! {
                biased;
                () = epoch.ended() => return Ok(LaneStop::EpochEnded),
                batch = self.waiting.take(self.most) => batch,
            };
            let Some(batch) = batch else { return Ok(LaneStop::Drained) };
            self.publish_batch(epoch, &channel, batch).await?;
        }
    }

    async fn publish_batch(
        &self,
        epoch: &Epoch,
        channel: &Channel,
        batch: Batch<Prepared>,
    ) -> Result<(), Error> {
        let Batch { items, owed } = batch;
        let mut flight = Flight::start(channel, items);
        let landed = self.land(epoch, &mut flight).await;
        flight.collect();
        match landed {
            Some(Ok(())) => {
                owed.settle(flight.outcomes("a message was returned that was not among them"));
                Ok(())
            }
            Some(Err(error)) => {
                owed.settle(flight.outcomes(&error.to_string()));
                Err(error)
            }
            None => {
                let (missing, of) = flight.missing();
                let late = Error::Unconfirmed { missing, of, after: self.confirm_timeout };
                owed.settle(flight.outcomes(&late.to_string()));
                self.sit_out(epoch, &mut flight, late).await
            }
        }
    }

    /// Waits for the confirms; `None` when the confirm timeout is over.
    async fn land(&self, epoch: &Epoch, flight: &mut Flight<'_>) -> Option<Result<(), Error>> {
        tokio::select! {
            biased;
            landed = flight.land() => Some(landed),
            () = epoch.ended() => Some(Err(Error::EpochEnded { why: epoch.why() })),
            () = sleep(self.confirm_timeout) => None,
        }
    }

    /// Waits with a batch whose outcomes are given, for as long as the broker blocks: a new
    /// connection would be blocked just as well, as soon as it publishes.
    async fn sit_out(
        &self,
        epoch: &Epoch,
        flight: &mut Flight<'_>,
        late: Error,
    ) -> Result<(), Error> {
        let mut link = self.connection.state();
        while matches!(*link.borrow_and_update(), LinkState::Blocked { .. }) {
            tokio::select! {
                biased;
                landed = flight.land() => return landed,
                () = epoch.ended() => return Err(Error::EpochEnded { why: epoch.why() }),
                changed = link.changed() => {
                    if changed.is_ok() && matches!(*link.borrow(), LinkState::Up) {
                        return self.land(epoch, flight).await.unwrap_or(Err(late));
                    }
                }
            }
        }
        Err(late)
    }
}

/// Why a lane stopped publishing in an epoch.
enum LaneStop {
    EpochEnded,
    Drained,
}

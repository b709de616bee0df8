//! Publishing: every message gets its own outcome.

pub(crate) mod message;

pub(crate) mod outcome;

pub(crate) mod waiting;

pub(crate) mod standing;

pub(crate) mod lane;

pub(crate) mod flight;

pub(crate) mod returns;

pub(crate) mod batcher;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_protocol::envelope::MAX_BODY_BYTES;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::connection::link::LinkState;
use crate::publish::lane::Lane;
use crate::publish::message::{Outgoing, Prepared, prepare};
use crate::publish::outcome::{NotTaken, Pending, PublishOutcome};
use crate::publish::standing::{Admission, Standings, lock};
use crate::publish::waiting::{Limits, Waiting, Way};

/// How a [`Publisher`] publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublisherSettings {
    /// How many messages may be without an outcome, waiting and sent; further ones are
    /// [`NotTaken::Overloaded`]. Half as many may be bound for exchanges that have not confirmed a
    /// message yet. Too low: the publisher refuses peaks that the broker would take within
    /// milliseconds. Too high: in trouble, callers learn late. Default: 10,000.
    pub max_waiting: usize,
    /// How many bytes the bodies of these messages may have together, at least one largest body.
    /// Default: 64 MiB.
    pub max_waiting_bytes: usize,
    /// How many bytes one body may have; a larger one is [`NotTaken::TooLarge`]. Too high: RabbitMQ
    /// answers a message over its own `max_message_size` (16 MiB in 4.x) by closing the channel.
    /// Default: 1 MiB, as in the wire contract.
    pub max_body_bytes: usize,
    /// How many channels the publisher uses, at least 1, besides one for messages that leave alone.
    /// While one channel waits for the confirms of its batch, the next fills another. Default: 4.
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
/// to a missing exchange by closing the channel, and with it drops the confirms of other messages.
/// So messages share a channel only when their exchanges have confirmed a message of about their
/// size (steps of 64 KiB); others leave alone, one after the other, and not always in their order. A message that the broker refuses is
/// [`Unroutable`](PublishOutcome::Unroutable). To a missing exchange, or one that the user may not
/// write to, the publisher then sends nothing for 1 s, and for up to 30 s when that goes on; such
/// messages are unroutable at once.
///
/// Dropping the last clone closes the publisher, which still publishes the messages it has taken.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    waiting: Arc<Waiting<Prepared>>,
    standings: Arc<Mutex<Standings>>,
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
        let standings = Arc::new(Mutex::new(Standings::default()));
        let together = Limits { entries: settings.max_batch.max(1), bytes: MAX_BATCH_BYTES };
        let alone = Limits { entries: 1, bytes: MAX_BATCH_BYTES };
        let lanes = (0..settings.channels.max(1)).map(|_| (Way::Together, together));
        for (way, most) in lanes.chain([(Way::Alone, alone)]) {
            let lane = Lane {
                connection: connection.clone(),
                waiting: Arc::clone(&waiting),
                standings: Arc::clone(&standings),
                way,
                most,
                confirm_timeout: settings.confirm_timeout,
            };
            tokio::spawn(abandon.clone().run_until_cancelled_owned(lane.run()));
        }
        let link = connection.state();
        let giving_up = give_up_while_away(Arc::clone(&waiting), link.clone());
        tokio::spawn(abandon.clone().run_until_cancelled_owned(giving_up));
        let max_body_bytes = settings.max_body_bytes;
        Self(Arc::new(Handle { waiting, standings, max_body_bytes, link, abandon }))
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
        let prepared = match prepare(message) {
            Ok(prepared) => prepared,
            Err(why) => return Ok(Pending::known(PublishOutcome::Unroutable { why })),
        };
        let admission = lock(&self.0.standings).admit(&prepared, Instant::now());
        match admission {
            Admission::Admitted(way) => {
                self.0.waiting.push(way, prepared, bytes, || self.0.link.borrow().away())
            }
            Admission::Refused { why } => Ok(Pending::known(PublishOutcome::Unroutable { why })),
        }
    }

    /// The broker's reason, if it refused a message to this exchange and key a moment ago, and the
    /// publisher therefore sends nothing there for now.
    #[must_use]
    pub fn refusal(&self, exchange: &str, key: &str) -> Option<String> {
        lock(&self.0.standings).refuses(exchange, key, Instant::now()).map(str::to_owned)
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

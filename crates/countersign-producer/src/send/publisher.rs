//! An upstream's connections to the broker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign_amqp::{
    Address, Batcher, BatcherSettings, Connection, LinkState, NotTaken, OnFailure, Outgoing,
    Pending, Properties, PublisherSettings,
};
use countersign_postgres::Database;
use countersign_protocol::check::{CheckHeader, CheckedMessage};
use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::topology::CHECK;
use countersign_protocol::{Attempt, Check, Headers, Tier, Topology, UnixMillis};
use countersign_retry::Pulse;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::error::{Error, ErrorKind};
use crate::message::Message;
use crate::send::destinations::{Destinations, Lookup};
use crate::send::in_flight::Budget;
use crate::send::rolled_back::Notices;
use crate::settings::ProducerSettings;

/// How often the database is asked for a sign of life: well below the minute after which a program is
/// not ready.
const BETWEEN_SIGNS: Duration = Duration::from_secs(10);

/// Arms checks and publishes messages. A clone is the same publisher.
#[derive(Clone, Debug)]
pub struct Publisher {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: ProducerSettings,
    pub(crate) budget: Budget,
    /// Publishes whose outcome a background task awaits.
    pub(crate) settling: TaskTracker,
    /// Notices of armings that were rolled back.
    pub(crate) notices: Notices,
    /// Checks share their connection with nothing: whatever becomes of messages, orders can be taken.
    checks_connection: Connection,
    messages_connection: Connection,
    /// Whether the connection for messages has been up. Until then its topology may be refused, and
    /// no message could be sent.
    has_met_messages: Arc<AtomicBool>,
    destinations: Destinations,
    checks: Batcher<CheckedMessage>,
    messages: countersign_amqp::Publisher,
}

impl Publisher {
    /// Starts to connect in the background, and returns at once. There are two connections: one for
    /// checks, and one for messages.
    ///
    /// Call this within a Tokio runtime.
    ///
    /// # Errors
    /// When the settings cannot work: all mistakes together.
    pub fn start(address: Address, settings: ProducerSettings) -> Result<Self, Error> {
        settings.check().map_err(|why| Error::new(ErrorKind::Settings, why))?;
        let connect = |address: Address, purpose: &str, topology| {
            let name = format!("{} {purpose}", settings.upstream);
            Connection::start(address, &name, topology)
        };
        let checks_connection = connect(address.clone(), "checks", Topology::arming());
        let messages_connection = connect(address, "messages", settings.topology());
        let in_bounds = PublisherSettings {
            max_waiting: settings.max_unconfirmed,
            max_waiting_bytes: settings.max_unconfirmed_bytes,
            ..Default::default()
        };
        let batching = BatcherSettings {
            max_entries: MAX_ENTRIES,
            max_waiting: settings.max_unconfirmed,
            on_failure: OnFailure::Report,
        };
        // The batcher has one message on its way at a time.
        let checks = PublisherSettings { channels: 1, ..in_bounds };
        let checks = countersign_amqp::Publisher::start(&checks_connection, checks);
        let checks = Batcher::start(checks, batching, {
            let (upstream, database) = (settings.upstream.clone(), settings.database);
            let tier = settings.tier;
            move |messages| {
                let header =
                    CheckHeader { upstream: upstream.clone(), database, armed_at: clock::now() };
                pack(header, tier, messages)
            }
        });
        let messages = countersign_amqp::Publisher::start(&messages_connection, in_bounds);
        let notices = countersign_amqp::Publisher::start(
            &messages_connection,
            PublisherSettings { max_waiting: 1, channels: 1, ..Default::default() },
        );
        let notices = Notices::start(settings.upstream.clone(), notices);
        let budget = Budget::new(settings.max_unconfirmed, settings.max_unconfirmed_bytes);
        let settling = TaskTracker::new();
        let has_met_messages = Arc::new(AtomicBool::new(false));
        tokio::spawn(meet(messages_connection.state(), Arc::clone(&has_met_messages)));
        let declared = settings.exchanges.iter().map(|(name, _)| name.clone()).collect();
        let destinations = Destinations::new(messages_connection.clone(), declared);
        let inner = Inner {
            settings,
            budget,
            settling,
            notices,
            checks_connection,
            messages_connection,
            has_met_messages,
            destinations,
            checks,
            messages,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Waits until the broker is connected, for checks and for messages.
    pub async fn ready(&self) {
        self.inner.checks_connection.ready().await;
        self.inner.messages_connection.ready().await;
    }

    /// The state of the connection for checks, now and from now on. While it is up, messages can be
    /// armed.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.inner.checks_connection.state()
    }

    /// The state of the connection for messages, now and from now on. While it is away, committed
    /// messages wait a little and are then left to their checks.
    #[must_use]
    pub fn messages_link(&self) -> watch::Receiver<LinkState> {
        self.inner.messages_connection.state()
    }

    /// What keeps the publisher's callers from their work, for the program's readiness: the way to the
    /// broker, and the database behind `pool`, which is asked for a sign of life every 10 s until the
    /// publisher is closed. A program is not ready when `stuck` names something for a minute; that ends by
    /// itself.
    ///
    /// Call this once, within a Tokio runtime.
    #[must_use]
    pub fn pulse(&self, pool: &PgPool) -> Pulse {
        let pulse = Pulse::new();
        let inner = &self.inner;
        let feeding = futures_util::future::join(
            inner.checks_connection.feed(&pulse),
            inner.messages_connection.feed(&pulse),
        );
        // Not through the pool: one that is merely busy has its database.
        let database = Database::from(pool).apart();
        let asking = {
            let pulse = pulse.clone();
            async move {
                let mut silent = None;
                loop {
                    match database.answers().await {
                        Ok(()) => silent = None,
                        Err(_) if silent.is_none() => {
                            silent = Some(pulse.begin("reach the database"));
                        }
                        Err(_) => {}
                    }
                    tokio::time::sleep(BETWEEN_SIGNS).await;
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                _ = feeding => {}
                () = asking => {}
            }
        });
        pulse
    }

    /// Takes no further messages, waits until the broker has confirmed the messages handed over or
    /// they are given up, for at most `deadline`, and closes the connection. The other messages are
    /// sent again when their checks come due.
    pub async fn close(&self, deadline: Duration) {
        let inner = &self.inner;
        let began = Instant::now();
        let left = || deadline.saturating_sub(began.elapsed());
        inner.checks.close(deadline).await;
        inner.settling.close();
        // A timeout needs no word: the checks take care of the rest.
        let _ = timeout(left(), inner.settling.wait()).await;
        inner.messages.close(left()).await;
        tokio::join!(inner.checks_connection.close(), inner.messages_connection.close());
    }
}

impl Inner {
    /// Fills in the publisher's defaults.
    pub(crate) fn complete(&self, message: &mut Message) {
        if message.consumers.is_empty() {
            message.set_consumers(self.settings.consumers.clone());
        }
    }

    /// Asks for the messages' exchanges. The error says why the broker would refuse a message, as far
    /// as that is known.
    pub(crate) fn destinations(&self, messages: &[Message]) -> Result<Vec<Lookup>, Error> {
        self.meet_messages_connection()?;
        let mut lookups = Vec::new();
        for message in messages {
            let refused = |why: &dyn fmt::Display| {
                let text = format!("message {}: {why}", message.id);
                Error::new(ErrorKind::Destination, text).about(message.id)
            };
            let Message { exchange, key, .. } = message;
            if let Some(why) = self.messages.refusal(exchange, key) {
                let text = format!(
                    "a moment ago the broker refused a message to exchange {exchange:?} with key {key:?}: {why}"
                );
                return Err(refused(&text));
            }
            lookups.extend(self.destinations.look_up(exchange).map_err(|why| refused(&why))?);
        }
        Ok(lookups)
    }

    fn meet_messages_connection(&self) -> Result<(), Error> {
        if self.has_met_messages.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.messages_connection.state().borrow().away() {
            Some(why) => Err(Error::of_publisher(&NotTaken::Away { why })),
            None => Ok(()),
        }
    }

    /// Hands over a check.
    pub(crate) fn check(&self, checked: CheckedMessage) -> Result<Pending, NotTaken> {
        self.checks.submit(checked)
    }

    /// Hands over the message itself.
    pub(crate) fn publish(
        &self,
        message: &Message,
        attempt: Attempt,
        now: UnixMillis,
    ) -> Result<Pending, NotTaken> {
        self.messages.publish(message.outgoing(&self.settings.upstream, attempt, now))
    }
}

/// Notes when the connection has been up.
async fn meet(mut link: watch::Receiver<LinkState>, has_met: Arc<AtomicBool>) {
    // An error means that the connection was closed for good.
    if link.wait_for(|state| *state == LinkState::Up).await.is_ok() {
        has_met.store(true, Ordering::Relaxed);
    }
}

fn pack(header: CheckHeader, tier: Tier, messages: &[CheckedMessage]) -> Outgoing {
    let (app_id, now) = (header.upstream.to_string(), header.armed_at);
    let check = Check::new(header, messages.to_vec());
    Outgoing {
        exchange: CHECK.to_owned(),
        key: tier.to_string(),
        properties: Properties {
            message_id: None,
            kind: Some("countersign.check".to_owned()),
            content_type: Some("application/json".to_owned()),
            app_id: Some(app_id),
            timestamp: u64::try_from(now.ms() / 1_000).ok(),
            headers: Headers::new(),
            ..Properties::default()
        },
        body: check.encode().into(),
    }
}

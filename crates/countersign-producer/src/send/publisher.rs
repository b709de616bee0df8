//! An upstream's connection to the broker.

use std::sync::Arc;
use std::time::Duration;

use countersign_amqp::{
    Address, Batcher, BatcherSettings, Connection, LinkState, NotTaken, OnFailure, Outgoing,
    Pending, Properties, PublisherSettings,
};
use countersign_postgres::Database;
use countersign_protocol::check::{CheckHeader, CheckedMessage};
use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::topology::CHECK;
use countersign_protocol::{Attempt, Check, Headers, Tier, UnixMillis};
use countersign_retry::Pulse;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::message::Message;
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
    connection: Connection,
    checks: Batcher<CheckedMessage>,
    messages: countersign_amqp::Publisher,
}

impl Publisher {
    /// Starts to connect in the background, and returns at once.
    ///
    /// Call this within a Tokio runtime.
    #[must_use]
    pub fn start(address: Address, settings: ProducerSettings) -> Self {
        let connection =
            Connection::start(address, settings.upstream.as_str(), settings.topology());
        let publisher = || {
            let max_waiting = settings.max_unconfirmed;
            let max_waiting_bytes = settings.max_unconfirmed_bytes;
            countersign_amqp::Publisher::start(
                &connection,
                PublisherSettings { max_waiting, max_waiting_bytes, ..Default::default() },
            )
        };
        let batching = BatcherSettings {
            max_entries: MAX_ENTRIES,
            max_waiting: settings.max_unconfirmed,
            on_failure: OnFailure::Report,
        };
        // Checks have channels of their own: a slow queue for messages must not hold them up.
        let checks = Batcher::start(publisher(), batching, {
            let (upstream, database) = (settings.upstream.clone(), settings.database);
            let tier = settings.tier;
            move |messages| {
                let header =
                    CheckHeader { upstream: upstream.clone(), database, armed_at: clock::now() };
                pack(header, tier, messages)
            }
        });
        let messages = publisher();
        let notices = countersign_amqp::Publisher::start(
            &connection,
            PublisherSettings { max_waiting: 1, channels: 1, ..Default::default() },
        );
        let notices = Notices::start(settings.upstream.clone(), notices);
        let budget = Budget::new(settings.max_unconfirmed, settings.max_unconfirmed_bytes);
        let settling = TaskTracker::new();
        Self {
            inner: Arc::new(Inner {
                settings,
                budget,
                settling,
                notices,
                connection,
                checks,
                messages,
            }),
        }
    }

    /// Waits until the broker is connected.
    pub async fn ready(&self) {
        self.inner.connection.ready().await;
    }

    /// The connection's state, now and from now on.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.inner.connection.state()
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
        let (feeding, database) = (self.inner.connection.feed(&pulse), Database::from(pool));
        let asking = {
            let pulse = pulse.clone();
            async move {
                let mut silent = None;
                loop {
                    match database.answers().await {
                        Ok(()) => silent = None,
                        Err(_) if silent.is_none() => {
                            silent = Some(pulse.begin("reach the database"))
                        }
                        Err(_) => {}
                    }
                    tokio::time::sleep(BETWEEN_SIGNS).await;
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = feeding => {}
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
        let until = tokio::time::Instant::now() + deadline;
        inner.checks.close(deadline).await;
        inner.settling.close();
        // A timeout needs no word: the checks take care of the rest.
        let _ = tokio::time::timeout_at(until, inner.settling.wait()).await;
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        inner.messages.close(left).await;
        inner.connection.close().await;
    }
}

impl Inner {
    /// Fills in the publisher's defaults.
    pub(crate) fn complete(&self, message: &mut Message) {
        if message.consumers.is_empty() {
            message.set_consumers(self.settings.consumers.clone());
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

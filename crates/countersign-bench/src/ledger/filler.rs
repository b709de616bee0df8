//! Confirms and checks in the broker, as consumers and upstreams publish them.

use anyhow::{Result, ensure};
use countersign_amqp::{
    Connection, Outgoing, Properties, PublishOutcome, Publisher, PublisherSettings,
};
use countersign_protocol::check::{CheckHeader, CheckedMessage};
use countersign_protocol::confirm::{ConfirmHeader, ConfirmedMessage};
use countersign_protocol::topology::{CHECK_DUE, CONFIRM};
use countersign_protocol::{Attempt, Check, Confirm, MessageId, Name, Outcome, Topology};

use crate::role::{CONSUMER, QUEUE, UPSTREAM};

/// Messages without a publisher confirm at once: with 1,000 entries each they stay below the
/// publisher's default of 64 MiB.
const AT_ONCE: usize = 200;

#[derive(Debug)]
pub(super) struct Filler {
    publisher: Publisher,
    upstream: Name,
    consumer: Name,
    connection: Connection,
}

impl Filler {
    /// Declares the callback service's queues, before the service does.
    ///
    /// # Errors
    /// If the address cannot be read.
    pub(super) async fn connect(amqp_url: &str) -> Result<Self> {
        // The service's default tiers; a queue must not be declared twice with different arguments.
        let tiers = ["5s".parse()?, "30s".parse()?, "5m".parse()?];
        let topology = Topology::callback(&tiers, 1);
        let connection = Connection::start(amqp_url.parse()?, "bench-filler", topology);
        connection.ready().await;
        Ok(Self {
            publisher: Publisher::start(&connection, PublisherSettings::default()),
            upstream: UPSTREAM.parse()?,
            consumer: CONSUMER.parse()?,
            connection,
        })
    }

    /// Confirms of these messages, `together` in one envelope; the broker holds them on return.
    ///
    /// # Errors
    /// If the broker does not take one.
    pub(super) async fn confirms(&self, ids: &[MessageId], together: usize) -> Result<()> {
        let confirmed = |&id: &MessageId| ConfirmedMessage {
            upstream: Some(self.upstream.clone()),
            queue: Some(QUEUE.to_owned()),
            attempt: Some(Attempt::FIRST),
            published_at: Some(id.time()),
            at: Some(id.time()),
            ..ConfirmedMessage::new(id, Outcome::Processed)
        };
        let bodies = ids.chunks(together).map(|ids| {
            let header = ConfirmHeader { consumer: self.consumer.clone() };
            Confirm::new(header, ids.iter().map(confirmed).collect()).encode()
        });
        // Shard 0 is the only one.
        self.publish(CONFIRM, "0", bodies).await
    }

    /// Checks of these messages that are due at once, `together` in one envelope; the broker holds
    /// them on return.
    ///
    /// # Errors
    /// If the broker does not take one.
    pub(super) async fn checks(&self, ids: &[MessageId], together: usize) -> Result<()> {
        let checked = |&id: &MessageId| CheckedMessage {
            id,
            consumers: vec![self.consumer.clone()],
            arming: None,
        };
        let bodies = ids.chunks(together).map(|ids| {
            let header = CheckHeader {
                upstream: self.upstream.clone(),
                database: None,
                armed_at: ids[0].time(),
            };
            Check::new(header, ids.iter().map(checked).collect()).encode()
        });
        self.publish(CHECK_DUE, "", bodies).await
    }

    /// Closes the connection, before the broker ends.
    pub(super) async fn close(self) {
        self.connection.close().await;
    }

    async fn publish(
        &self,
        exchange: &str,
        key: &str,
        bodies: impl Iterator<Item = Vec<u8>>,
    ) -> Result<()> {
        let mut bodies = bodies.peekable();
        while bodies.peek().is_some() {
            let mut pending = Vec::with_capacity(AT_ONCE);
            for body in bodies.by_ref().take(AT_ONCE) {
                pending.push(self.publisher.publish(Outgoing {
                    exchange: exchange.to_owned(),
                    key: key.to_owned(),
                    properties: Properties::default(),
                    body: body.into(),
                })?);
            }
            for pending in pending {
                let outcome = pending.await;
                ensure!(outcome == PublishOutcome::Routed, "{exchange}: {outcome:?}");
            }
        }
        Ok(())
    }
}

//! The textbook scheme: with each message a check, for each message a confirm.
//!
//! As fair as it can be made: check and message are on their way together, hundreds of them at once
//! over several channels; the consumer does not wait for one confirm before it sends the next.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use countersign_amqp::{
    Connection, Consumer, DeliveryTag, Outgoing, Pending, Properties, PublishOutcome, Publisher,
    PublisherSettings, Subscription,
};
use countersign_protocol::check::{CheckHeader, CheckedMessage};
use countersign_protocol::confirm::{ConfirmHeader, ConfirmedMessage};
use countersign_protocol::{Check, Confirm, MessageId, Name, Outcome, Tier, Topology, topology};
use tokio::sync::mpsc;

use super::business::{self, CONSUMER, QUEUE, UPSTREAM};
use super::scheme::{ConsumerArguments, ProducerArguments, Sending};
use super::wire::Count;

#[derive(Clone)]
pub(super) struct Sender {
    publisher: Publisher,
    tier: Tier,
    upstream: Name,
    consumers: Arc<[Name]>,
}

impl Sender {
    pub(super) async fn open(arguments: &ProducerArguments) -> Result<Self> {
        let name = "textbook-producer";
        let topology = business::topology().and(Topology::callback(&[arguments.tier], 1));
        let connection = Connection::start(arguments.amqp_url.clone(), name, topology);
        connection.ready().await;
        Ok(Self {
            publisher: Publisher::start(&connection, PublisherSettings::default()),
            tier: arguments.tier,
            upstream: UPSTREAM.parse()?,
            consumers: [CONSUMER.parse()?].into(),
        })
    }

    fn check(&self, id: MessageId) -> Outgoing {
        let header =
            CheckHeader { upstream: self.upstream.clone(), database: None, armed_at: id.time() };
        let checked = CheckedMessage { id, consumers: self.consumers.to_vec(), arming: None };
        let check = Check::new(header, vec![checked]);
        envelope(topology::CHECK, self.tier.to_string(), check.encode())
    }
}

impl Sending for Sender {
    async fn send(&self, body: Bytes) -> Result<()> {
        let id = MessageId::generate();
        let check = self.publisher.publish(self.check(id))?;
        let message = self.publisher.publish(business::message(id, body))?;
        for pending in [check, message] {
            let verdict = pending.await;
            ensure!(verdict == PublishOutcome::Routed, "a message or its check: {verdict:?}");
        }
        Ok(())
    }
}

/// Counts a message when it is acked, which is when the broker has its confirm.
pub(super) async fn consume(arguments: &ConsumerArguments, count: &Count) -> Result<()> {
    let consumed = business::connection(&arguments.amqp_url, "textbook-consumer");
    let confirming =
        Connection::start(arguments.amqp_url.clone(), "textbook-confirms", Topology::confirming());
    confirming.ready().await;
    let publisher = Publisher::start(&confirming, PublisherSettings::default());
    let subscription =
        Subscription { queue: QUEUE.to_owned(), prefetch: arguments.prefetch, priority: None };
    let mut consumer = Consumer::start(&consumed, subscription);
    let acks = consumer.acks();
    let name: Name = CONSUMER.parse()?;
    let (sent, mut confirmed) =
        mpsc::channel::<(Pending, DeliveryTag)>(usize::from(arguments.prefetch));
    let confirm = async {
        while let Some(delivery) = consumer.next().await {
            let id = delivery.properties.message_id.context("a delivery without an id")?.parse()?;
            sent.send((publisher.publish(confirm(&name, id))?, delivery.tag)).await?;
        }
        anyhow::bail!("the connection is closed")
    };
    let ack = async {
        while let Some((pending, tag)) = confirmed.recv().await {
            let verdict = pending.await;
            ensure!(verdict == PublishOutcome::Routed, "a confirm was not routed: {verdict:?}");
            acks.ack(tag);
            count.one();
        }
        Ok(())
    };
    tokio::try_join!(confirm, ack).map(|((), ())| ())
}

fn confirm(consumer: &Name, id: MessageId) -> Outgoing {
    let header = ConfirmHeader { consumer: consumer.clone() };
    let confirm = Confirm::new(header, vec![ConfirmedMessage::new(id, Outcome::Processed)]);
    envelope(topology::CONFIRM, "0".to_owned(), confirm.encode())
}

fn envelope(exchange: &str, key: String, body: Vec<u8>) -> Outgoing {
    Outgoing {
        exchange: exchange.to_owned(),
        key,
        properties: Properties {
            content_type: Some("application/json".to_owned()),
            ..Properties::default()
        },
        body: body.into(),
    }
}

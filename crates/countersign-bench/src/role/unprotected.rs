//! No protection: publish and wait for the publisher confirm; consume, then ack.

use anyhow::{Result, ensure};
use bytes::Bytes;
use countersign_amqp::{Consumer, PublishOutcome, Publisher, PublisherSettings, Subscription};
use countersign_protocol::MessageId;

use super::business::{self, QUEUE};
use super::scheme::{ConsumerArguments, ProducerArguments, Sending};
use super::wire::Count;

#[derive(Clone)]
pub(super) struct Sender(Publisher);

impl Sender {
    pub(super) async fn open(arguments: &ProducerArguments) -> Self {
        let connection = business::connection(&arguments.amqp_url, "unprotected-producer");
        connection.ready().await;
        Self(Publisher::start(&connection, PublisherSettings::default()))
    }
}

impl Sending for Sender {
    async fn send(&self, body: Bytes) -> Result<()> {
        let verdict = self.0.publish(business::message(MessageId::generate(), body))?.await;
        ensure!(verdict == PublishOutcome::Routed, "a message was not routed: {verdict:?}");
        Ok(())
    }
}

/// Counts a message when it is acked.
pub(super) async fn consume(arguments: &ConsumerArguments, count: &Count) -> Result<()> {
    /// How many deliveries are taken at once, if they are there.
    const BATCH: usize = 100;
    let connection = business::connection(&arguments.amqp_url, "unprotected-consumer");
    let subscription =
        Subscription { queue: QUEUE.to_owned(), prefetch: arguments.prefetch, priority: None };
    let mut consumer = Consumer::start(&connection, subscription);
    let acks = consumer.acks();
    loop {
        let deliveries = consumer.next_batch(BATCH).await;
        ensure!(!deliveries.is_empty(), "the connection is closed");
        for delivery in deliveries {
            acks.ack(delivery.tag);
            count.one();
        }
    }
}

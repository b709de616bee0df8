//! Countersign: the SDKs as they are shipped, without a business database.
//!
//! A caller waits until the broker holds its check, then hands its message over without waiting.
//! The consumer's handler does nothing, without an inbox. The real callback service records
//! confirms and looks checks up.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use countersign_consumer::{Consumer, ConsumerSettings, Delivery, ExchangeKind, Failure, Handler};
use countersign_producer::{
    ErrorKind, Found, Message, MessageId, MessageSource, ProducerSettings, Publisher, SourceError,
    upstream_without_store,
};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::business::{self, CONSUMER, CONTENT_TYPE, EXCHANGE, KEY, KIND, QUEUE, UPSTREAM};
use super::scheme::{ConsumerArguments, ProducerArguments, Sending};
use super::wire::Count;

#[derive(Clone)]
pub(super) struct Sender(Publisher);

impl Sender {
    pub(super) async fn open(arguments: &ProducerArguments) -> Result<Self> {
        let settings =
            ProducerSettings::new(UPSTREAM.parse()?, arguments.tier, vec![CONSUMER.parse()?])
                .with_exchange(EXCHANGE, ExchangeKind::Topic);
        // The producer SDK declares no queues: those are the consumers'. Here they have to exist
        // before there is a consumer.
        let queues = business::connection(&arguments.amqp_url, "countersign-queues");
        queues.ready().await;
        queues.close().await;
        let publisher = Publisher::start(arguments.amqp_url.clone(), settings)?;
        publisher.ready().await;
        let upstream = upstream_without_store(publisher.clone(), MadeAnew);
        let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
        let server = Server::builder().add_service(upstream);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self(publisher))
    }
}

impl Sending for Sender {
    async fn send(&self, body: Bytes) -> Result<()> {
        /// How long a caller waits when the publisher is overloaded.
        const PAUSE: Duration = Duration::from_millis(2);
        let message = message(body);
        let armed = loop {
            match self.0.arm(message.clone()) {
                Ok(armed) => break armed,
                Err(error) if error.kind() == ErrorKind::Overloaded => sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        };
        armed.held().await?.committed().publish();
        Ok(())
    }
}

fn message(body: Bytes) -> Message {
    Message::new(EXCHANGE, KEY, body).with_kind(KIND).with_content_type(CONTENT_TYPE)
}

/// Finds any message: all are alike.
struct MadeAnew;

impl MessageSource<()> for MadeAnew {
    async fn find(&self, (): &mut (), id: MessageId) -> Result<Found, SourceError> {
        Ok(Found::Message(message(business::body()).with_id(id)))
    }
}

/// Counts a message when its handler is done. The confirm, its recording and the ack follow.
pub(super) async fn consume(arguments: &ConsumerArguments, count: &Count) -> Result<()> {
    let mut settings = ConsumerSettings::new(CONSUMER.parse()?, QUEUE).bound_to(
        EXCHANGE,
        ExchangeKind::Topic,
        KEY,
    );
    settings.prefetch = Some(arguments.prefetch);
    // The consumer ends with the process: when everything is recorded there is nothing to drain.
    let never = CancellationToken::new();
    let consumer = Consumer::new(arguments.amqp_url.clone(), settings).without_inbox();
    consumer.handler(Counting(count.clone())).run(never).await?;
    Ok(())
}

struct Counting(Count);

impl Handler<()> for Counting {
    async fn handle(&self, (): &mut (), _delivery: &Delivery) -> Result<(), Failure> {
        self.0.one();
        Ok(())
    }
}

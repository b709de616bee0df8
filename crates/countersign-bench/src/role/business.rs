//! The message that is sent, and where it goes: the same in every scheme.

use bytes::Bytes;
use countersign_amqp::{Address, Connection, Outgoing, Properties};
use countersign_protocol::topology::ExchangeKind;
use countersign_protocol::{Attempt, Headers, MessageId, Topology, header};

/// The upstream's name.
pub(crate) const UPSTREAM: &str = "bench";
/// The consumer's name.
pub(crate) const CONSUMER: &str = "bench";
/// Where messages wait for the consumer.
pub(crate) const QUEUE: &str = "bench.messages";
/// How long a message's body is.
pub(crate) const BODY_BYTES: usize = 512;

pub(super) const EXCHANGE: &str = "bench";
pub(super) const KEY: &str = "message";
pub(super) const KIND: &str = "bench.message";
pub(super) const CONTENT_TYPE: &str = "application/octet-stream";

/// The body of every message: no scheme reads it.
pub(super) fn body() -> Bytes {
    Bytes::from_static(&[b'.'; BODY_BYTES])
}

/// The exchange, and the queue bound to it, with the arguments that the consumer SDK gives it.
pub(super) fn topology() -> Topology {
    Topology::consumed(QUEUE, &[])
        .with_exchange(EXCHANGE, ExchangeKind::Topic)
        .with_binding(EXCHANGE, KEY, QUEUE)
}

/// A connection that declares them.
pub(super) fn connection(address: &Address, name: &str) -> Connection {
    Connection::start(address.clone(), name, topology())
}

/// A message with the properties that the producer SDK gives it, so that every scheme's broker moves
/// the same bytes.
pub(super) fn message(id: MessageId, body: Bytes) -> Outgoing {
    // An id is made a moment before its message is sent.
    let now = id.time();
    Outgoing {
        exchange: EXCHANGE.to_owned(),
        key: KEY.to_owned(),
        properties: Properties {
            message_id: Some(id.to_string()),
            kind: Some(KIND.to_owned()),
            content_type: Some(CONTENT_TYPE.to_owned()),
            app_id: Some(UPSTREAM.to_owned()),
            timestamp: u64::try_from(now.ms() / 1_000).ok(),
            headers: Headers::new()
                .with_integer(header::ATTEMPT, i64::from(Attempt::FIRST.number()))
                .with_integer(header::PUBLISHED_AT_MS, now.ms()),
            ..Properties::default()
        },
        body,
    }
}

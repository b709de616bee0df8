//! Declaring a topology in the broker.

use countersign_protocol::topology::{Argument, Binding, Exchange, ExchangeKind, Queue, Topology};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ErrorKind};

use crate::error::Error;

/// Declares exchanges, queues and bindings. The broker leaves those alone that it has already with
/// the same settings.
pub(crate) async fn declare(channel: &Channel, topology: &Topology) -> Result<(), Error> {
    for exchange in &topology.exchanges {
        declare_exchange(channel, exchange).await?;
    }
    for queue in &topology.queues {
        declare_queue(channel, queue).await?;
    }
    for binding in &topology.bindings {
        declare_binding(channel, binding).await?;
    }
    Ok(())
}

async fn declare_exchange(channel: &Channel, exchange: &Exchange) -> Result<(), Error> {
    let mut arguments = FieldTable::default();
    if let Some(alternate) = &exchange.alternate {
        arguments.insert("alternate-exchange".into(), text(alternate));
    }
    let kind = match exchange.kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
    };
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(short(&exchange.name)?, kind, options, arguments)
        .await
        .map_err(|cause| refused(format!("exchange {}", exchange.name), cause))
}

async fn declare_queue(channel: &Channel, queue: &Queue) -> Result<(), Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(value) => text(value),
            Argument::Integer(value) => AMQPValue::LongLongInt(*value),
            Argument::Boolean(value) => AMQPValue::Boolean(*value),
        };
        arguments.insert((*name).into(), value);
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel
        .queue_declare(short(&queue.name)?, options, arguments)
        .await
        .map(drop)
        .map_err(|cause| refused(format!("queue {}", queue.name), cause))
}

async fn declare_binding(channel: &Channel, binding: &Binding) -> Result<(), Error> {
    let Binding { exchange, key, queue } = binding;
    channel
        .queue_bind(
            short(queue)?,
            short(exchange)?,
            short(key)?,
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(|cause| {
            refused(format!("binding of queue {queue} to exchange {exchange}, key {key:?}"), cause)
        })
}

fn refused(what: String, cause: lapin::Error) -> Error {
    let otherwise = matches!(
        cause.kind(),
        ErrorKind::ProtocolError(e)
            if *e.kind() == AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
    );
    if otherwise {
        Error::DeclaredOtherwise { what, cause }
    } else {
        Error::NotDeclared { what, cause }
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn short(name: &str) -> Result<ShortString, Error> {
    ShortString::try_new(name).map_err(|_| Error::NameTooLong { what: name.to_owned() })
}

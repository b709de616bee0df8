//! Declaring a topology in the broker.

use std::collections::BTreeMap;

use countersign_protocol::topology::{Argument, Binding, Exchange, ExchangeKind, Queue, Topology};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::constants::REPLY_SUCCESS;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ErrorKind};
use tracing::warn;

use crate::connection::epoch::Epoch;
use crate::error::Error;

/// Declares exchanges, queues and bindings. The broker leaves those alone that it has already with
/// the same settings.
///
/// A queue whose limits are others than declared is taken as it is: another release, which may run beside this one,
/// or an operator has made it so. Without that, a release that changes a limit could not be rolled out or back.
pub(crate) async fn declare(epoch: &Epoch, topology: &Topology) -> Result<(), Error> {
    let mut channel = epoch.channel().await?;
    for exchange in &topology.exchanges {
        declare_exchange(&channel, exchange).await?;
    }
    for queue in &topology.queues {
        let mut limits = Limits::default();
        while let Err(error) = declare_queue(&channel, queue, &limits).await {
            if !limits.take_over(&error) {
                return Err(error);
            }
            // The broker has closed the channel.
            channel = epoch.channel().await?;
        }
        if !limits.0.is_empty() {
            warn!(
                queue = queue.name,
                limits = ?limits.0,
                "the queue's limits are others than this release declares: it is taken as it is; countersign doctor shows the difference"
            );
        }
    }
    for binding in &topology.bindings {
        declare_binding(&channel, binding).await?;
    }
    channel.close(REPLY_SUCCESS, "declared".into()).await?;
    Ok(())
}

/// The limits that a queue has, where they are others than declared: argument and value, if it has one.
#[derive(Debug, Default)]
struct Limits(BTreeMap<&'static str, Option<i64>>);

impl Limits {
    /// The arguments that a queue serves with whatever they are: how much it holds, and how often it delivers.
    const ARGUMENTS: [&'static str; 3] = ["x-max-length", "x-max-length-bytes", "x-delivery-limit"];

    /// Takes the limit over that the broker says the queue has. `false` if the refusal is about something else, or
    /// about a limit that was taken over before.
    fn take_over(&mut self, refused: &Error) -> bool {
        let Error::DeclaredOtherwise { cause, .. } = refused else { return false };
        let ErrorKind::ProtocolError(error) = cause.kind() else { return false };
        let Some((argument, current)) = other_argument(error.get_message().as_str()) else {
            return false;
        };
        let limit = Self::ARGUMENTS.into_iter().find(|limit| *limit == argument);
        limit.is_some_and(|limit| self.0.insert(limit, current).is_none())
    }
}

/// The argument that a queue has otherwise, and its integer, if it has one. `None` if the text is another.
///
/// RabbitMQ says (`rabbit_misc:assert_args_equivalence1`, 3.8 to 4.3): `inequivalent arg 'x-max-length' for queue 'q' in
/// vhost '/': received the value '5' of type 'signedint' but current is the value '10' of type 'signedint'`, or `… but
/// current is none`.
fn other_argument(refusal: &str) -> Option<(&str, Option<i64>)> {
    let (argument, rest) = refusal.split_once("inequivalent arg '")?.1.split_once('\'')?;
    let current = rest.split_once("but current is ")?.1;
    if current.starts_with("none") {
        return Some((argument, None));
    }
    let (value, _) = current.split_once('\'')?.1.split_once('\'')?;
    Some((argument, Some(value.parse().ok()?)))
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

async fn declare_queue(channel: &Channel, queue: &Queue, limits: &Limits) -> Result<(), Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(value) => text(value),
            Argument::Integer(value) => AMQPValue::LongLongInt(*value),
            Argument::Boolean(value) => AMQPValue::Boolean(*value),
        };
        if !limits.0.contains_key(name) {
            arguments.insert((*name).into(), value);
        }
    }
    for (name, limit) in &limits.0 {
        if let Some(limit) = limit {
            arguments.insert((*name).into(), AMQPValue::LongLongInt(*limit));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_says_which_limit_a_queue_has() {
        let refusal = |current: &str| {
            format!(
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received the value '5' of type 'signedint' but current is {current}"
            )
        };
        let ten = refusal("the value '10' of type 'signedint'");
        assert_eq!(other_argument(&ten), Some(("x-max-length", Some(10))));
        assert_eq!(other_argument(&refusal("none")), Some(("x-max-length", None)));
        let text = refusal("the value 'quorum' of type 'longstr'");
        assert_eq!(other_argument(&text), None);
        assert_eq!(other_argument("NOT_FOUND - no queue 'q'"), None);
    }
}

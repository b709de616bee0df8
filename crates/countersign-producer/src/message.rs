//! A message, as its sender makes it.

use std::time::Duration;

use bytes::Bytes;
use countersign_amqp::{Outgoing, Properties};
use countersign_protocol::check::MAX_CONSUMERS;
use countersign_protocol::envelope::MAX_BODY_BYTES;
use countersign_protocol::{Attempt, HeaderValue, Headers, MessageId, Name, UnixMillis, header};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A message to send, with its exchange and key. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub(crate) id: MessageId,
    pub(crate) exchange: String,
    pub(crate) key: String,
    pub(crate) kind: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) more: Option<Box<MoreProperties>>,
    pub(crate) headers: Headers,
    pub(crate) consumers: Vec<Name>,
    pub(crate) body: Bytes,
}

/// The AMQP properties that few messages have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MoreProperties {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expiration_ms: Option<u64>,
}

/// Why a message does not take a header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a header that may be set: its name has 1 to 255 bytes without control characters, does not begin with 'x-' or 'countersign-', and is not CC or BCC"
)]
pub struct InvalidHeader(String);

/// The longest name of an exchange or key in AMQP 0-9-1, in bytes.
const MAX_SHORT_STRING: usize = 255;
/// The longest list of a message's consumers, each with the quotes around its name, in bytes: one
/// envelope has to hold 1,000 checked messages.
const MAX_CONSUMER_BYTES: usize = 950;
const QUOTES_AND_COMMA: usize = 3;
/// The longest expiration that RabbitMQ takes: its timers count milliseconds in 32 bits. A longer one closes the channel.
const MAX_EXPIRATION_MS: u64 = u32::MAX as u64;

impl Message {
    /// A message with a new id, for this exchange with this key.
    #[must_use]
    pub fn new(exchange: &str, key: &str, body: impl Into<Bytes>) -> Self {
        Self {
            id: MessageId::generate(),
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            kind: None,
            content_type: None,
            more: None,
            headers: Headers::new(),
            consumers: Vec::new(),
            body: body.into(),
        }
    }

    /// A message with a new id whose body is `content` in JSON; `kind` is what AMQP calls `type`.
    ///
    /// # Errors
    /// When `content` cannot be written as JSON.
    pub fn json(
        exchange: &str,
        key: &str,
        kind: &str,
        content: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(content)?;
        Ok(Self::new(exchange, key, body).with_kind(kind).with_content_type("application/json"))
    }

    /// The same message under the id it was first sent with: for a
    /// [`MessageSource`](crate::MessageSource), which makes the message anew from stored data.
    #[must_use]
    pub fn with_id(mut self, id: MessageId) -> Self {
        self.id = id;
        self
    }

    /// Sets the message's kind (AMQP calls it `type`).
    #[must_use]
    pub fn with_kind(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }

    /// Sets the body's content type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: &str) -> Self {
        self.content_type = Some(content_type.to_owned());
        self
    }

    fn more(&mut self) -> &mut MoreProperties {
        self.more.get_or_insert_default()
    }

    /// Sets how the body is encoded, such as `gzip`.
    #[must_use]
    pub fn with_content_encoding(mut self, encoding: &str) -> Self {
        self.more().content_encoding = Some(encoding.to_owned());
        self
    }

    /// Sets by which an answer to the message is to be known, or which message it answers.
    #[must_use]
    pub fn with_correlation_id(mut self, id: &str) -> Self {
        self.more().correlation_id = Some(id.to_owned());
        self
    }

    /// Sets where an answer is to be sent to.
    #[must_use]
    pub fn with_reply_to(mut self, address: &str) -> Self {
        self.more().reply_to = Some(address.to_owned());
        self
    }

    /// Sets the priority, for queues that have priorities.
    #[must_use]
    pub fn with_priority(mut self, priority: u8) -> Self {
        self.more().priority = Some(priority);
        self
    }

    /// Sets after how long the message expires in a queue, in whole milliseconds. What has expired was
    /// not processed: the callback service asks for it again.
    #[must_use]
    pub fn with_expiration(mut self, after: Duration) -> Self {
        self.more().expiration_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Sets the consumers that have to confirm the message, instead of the publisher's default. 1
    /// to 16.
    #[must_use]
    pub fn with_consumers(mut self, consumers: Vec<Name>) -> Self {
        self.set_consumers(consumers);
        self
    }

    pub(crate) fn set_consumers(&mut self, consumers: Vec<Name>) {
        self.consumers = consumers;
        self.consumers.sort();
        self.consumers.dedup();
    }

    /// Sets a header, such as `traceparent`.
    ///
    /// # Errors
    /// When a header of this name belongs to the broker or to Countersign, or not every client can
    /// read it.
    pub fn with_header(mut self, name: &str, value: HeaderValue) -> Result<Self, InvalidHeader> {
        if !name.starts_with("countersign-") && self.headers.set(name, value) {
            Ok(self)
        } else {
            Err(InvalidHeader(name.to_owned()))
        }
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Why the message cannot be sent, for a person; `None` if it can.
    pub(crate) fn problem(&self) -> Option<String> {
        let names = self.consumers.iter().map(|name| name.as_str().len() + QUOTES_AND_COMMA);
        let more = self.more.as_deref().cloned().unwrap_or_default();
        let MoreProperties { content_encoding, correlation_id, reply_to, expiration_ms, .. } =
            &more;
        let texts = [&self.kind, &self.content_type, content_encoding, correlation_id, reply_to];
        let longest = texts.into_iter().flatten().map(String::len).max();
        if self.consumers.is_empty() || self.consumers.len() > MAX_CONSUMERS {
            Some(format!(
                "{} consumers have to confirm it: 1 to {MAX_CONSUMERS} can",
                self.consumers.len()
            ))
        } else if names.sum::<usize>() > MAX_CONSUMER_BYTES {
            Some(format!("the names of its consumers are over {MAX_CONSUMER_BYTES} bytes together"))
        } else if self.exchange.len() > MAX_SHORT_STRING || self.key.len() > MAX_SHORT_STRING {
            Some(format!("its exchange or its key is over {MAX_SHORT_STRING} bytes"))
        } else if longest.is_some_and(|length| length > MAX_SHORT_STRING) {
            Some(format!(
                "its kind, content type, content encoding, correlation id or reply address is over {MAX_SHORT_STRING} bytes"
            ))
        } else if expiration_ms.is_some_and(|after| after > MAX_EXPIRATION_MS) {
            Some(format!("it expires after more than {MAX_EXPIRATION_MS} ms, which no queue takes"))
        } else if self.body.len() > MAX_BODY_BYTES {
            Some(format!(
                "its body has {} bytes: at most {MAX_BODY_BYTES} are sent",
                self.body.len()
            ))
        } else {
            countersign_amqp::header_problem(&self.headers)
        }
    }

    /// The message in the form in which it goes to the broker.
    pub(crate) fn outgoing(&self, upstream: &Name, attempt: Attempt, now: UnixMillis) -> Outgoing {
        let more = self.more.as_deref().cloned().unwrap_or_default();
        let properties = Properties {
            message_id: Some(self.id.to_string()),
            kind: self.kind.clone(),
            content_type: self.content_type.clone(),
            app_id: Some(upstream.to_string()),
            timestamp: u64::try_from(now.ms() / 1_000).ok(),
            content_encoding: more.content_encoding,
            correlation_id: more.correlation_id,
            reply_to: more.reply_to,
            priority: more.priority,
            expiration: more.expiration_ms.map(|after| after.to_string()),
            headers: self
                .headers
                .clone()
                .with_integer(header::ATTEMPT, i64::from(attempt.number()))
                .with_integer(header::PUBLISHED_AT_MS, now.ms()),
            ..Properties::default()
        };
        Outgoing {
            exchange: self.exchange.clone(),
            key: self.key.clone(),
            properties,
            body: self.body.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: impl IntoIterator<Item = String>) -> Vec<Name> {
        names.into_iter().map(|name| name.parse().unwrap()).collect()
    }

    fn message() -> Message {
        Message::new("orders", "order.placed", "a chair")
            .with_consumers(names(["logistics".into()]))
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        let long = "x".repeat(256);
        let many = names((0..17).map(|n| format!("consumer-{n}")));
        let wordy = names((0..16).map(|n| format!("{n:064}")));
        for (message, part) in [
            (message().with_consumers(Vec::new()), "0 consumers"),
            (message().with_consumers(many), "17 consumers"),
            (message().with_consumers(wordy), "names of its consumers"),
            (Message { key: long.clone(), ..message() }, "key"),
            (message().with_kind(&long), "kind"),
            (message().with_correlation_id(&long), "correlation id"),
            (message().with_expiration(Duration::MAX), "expires"),
            (Message { body: vec![0; MAX_BODY_BYTES + 1].into(), ..message() }, "body"),
        ] {
            let problem = message.problem().unwrap_or_default();
            assert!(problem.contains(part), "{problem:?} does not name {part:?}");
        }
        assert_eq!(message().problem(), None);
    }

    #[test]
    fn the_largest_check_fits_into_an_envelope() {
        let consumers = names((0..14).map(|n| format!("{n:064}")));
        let message = message().with_consumers(consumers);
        assert_eq!(message.problem(), None);
        let checked = countersign_protocol::check::CheckedMessage {
            id: message.id,
            consumers: message.consumers,
            arming: Some(countersign_protocol::ArmingId::from_bits(u64::MAX)),
        };
        let header = countersign_protocol::check::CheckHeader {
            upstream: format!("{:064}", 0).parse().unwrap(),
            database: Some("6f9619ff-8b86-4011-b42d-00c04fc964ff".parse().unwrap()),
            armed_at: UnixMillis::MAX_IN_ID,
        };
        let check = countersign_protocol::Check::new(header, vec![checked; 1_000]);
        assert!(check.encode().len() <= MAX_BODY_BYTES);
    }

    #[test]
    fn headers_of_the_broker_and_of_countersign_are_refused() {
        for name in ["x-death", "CC", "countersign-attempt", "a\n"] {
            assert!(message().with_header(name, HeaderValue::Integer(1)).is_err(), "{name}");
        }
        let traced = message()
            .with_header(header::TRACEPARENT, HeaderValue::Text("00-ab-cd-01".into()))
            .unwrap()
            .outgoing(&"orders".parse().unwrap(), Attempt::FIRST, UnixMillis::from_ms(1_500));
        assert_eq!(traced.properties.headers.text("traceparent"), Some("00-ab-cd-01"));
        assert_eq!(traced.properties.headers.integer("countersign-attempt"), Some(1));
        assert_eq!(traced.properties.headers.integer("countersign-published-at-ms"), Some(1_500));
        assert_eq!(traced.properties.timestamp, Some(1));
        assert_eq!(traced.properties.app_id.as_deref(), Some("orders"));
    }
}

//! Message headers: which there are, and which may be carried on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which publish of the message this is, from 1. Integer.
pub const ATTEMPT: &str = "countersign-attempt";
/// When this attempt was published, on the upstream's clock, in milliseconds since 1970. Integer.
pub const PUBLISHED_AT_MS: &str = "countersign-published-at-ms";
/// How often the consumer's handler has failed on this delivery. Integer; absent at first.
pub const FAILURES: &str = "countersign-failures";
/// The exchange that a message was published to first, once it has been through a delay queue or
/// stands in a `.dead` queue. Text.
pub const EXCHANGE: &str = "countersign-exchange";
/// The key that a message was published with first, likewise. Text.
pub const KEY: &str = "countersign-key";
/// Why a message stands in a `.dead` queue or in quarantine. Text.
pub const REASON: &str = "countersign-reason";
/// The exchange or queue that a quarantined message came from. Text.
pub const SOURCE: &str = "countersign-source";
/// The AMQP property `expiration` that a message was published with, once it has been through a delay
/// queue or stands in a `.dead` queue: a copy must not expire there. Text.
pub const EXPIRATION: &str = "countersign-expiration";
/// The AMQP property `user_id` that a message was published with, likewise: the broker refuses it from
/// another user. Text.
pub const USER_ID: &str = "countersign-user-id";
/// W3C Trace Context (<https://www.w3.org/TR/trace-context/>). Text.
pub const TRACEPARENT: &str = "traceparent";
/// W3C Trace Context, what vendors add. Text.
pub const TRACESTATE: &str = "tracestate";

/// A header's value. Every AMQP 0-9-1 client can read the first four kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeaderValue {
    /// A text.
    Text(String),
    /// An integer.
    Integer(i64),
    /// A boolean.
    Boolean(bool),
    /// Seconds since 1970.
    Timestamp(u64),
    /// A number with a fraction.
    Float(f64),
    /// Bytes that are no text.
    Bytes(Vec<u8>),
    /// Several values.
    List(Vec<Self>),
    /// Several values by name.
    Table(BTreeMap<String, Self>),
    /// Nothing (AMQP calls it void).
    Nothing,
}

/// The headers of a message, by name.
///
/// Holds allowed names only (see [`Headers::allows`]), so that no broker-owned header can be sent
/// on by accident.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers(BTreeMap<String, HeaderValue>);

/// The longest name of a header that AMQP 0-9-1 can say, in bytes.
const MAX_NAME_BYTES: usize = 255;

impl Headers {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a header of this name may be sent: every name of up to 255 bytes without control
    /// characters, but for the broker's own.
    ///
    /// What begins with `x-` belongs to the broker, and `CC` and `BCC` route; the broker knows these
    /// names in this case only. A copied `x-death` makes RabbitMQ up to 3.13 take a dead letter for a
    /// cycle; 32 of them stop a wait queue for good (reproduced on 3.10.8).
    #[must_use]
    pub fn allows(name: &str) -> bool {
        (1..=MAX_NAME_BYTES).contains(&name.len())
            && !name.starts_with("x-")
            && !matches!(name, "CC" | "BCC")
            && !name.contains(char::is_control)
    }

    /// Sets a header; a name that is not allowed is left out, and `false` returned.
    pub fn set(&mut self, name: &str, value: HeaderValue) -> bool {
        let allowed = Self::allows(name);
        if allowed {
            self.0.insert(name.to_owned(), value);
        }
        allowed
    }

    /// Sets a text header of this contract.
    #[must_use]
    pub fn with_text(mut self, name: &'static str, value: &str) -> Self {
        self.set(name, HeaderValue::Text(value.to_owned()));
        self
    }

    /// Sets an integer header of this contract.
    #[must_use]
    pub fn with_integer(mut self, name: &'static str, value: i64) -> Self {
        self.set(name, HeaderValue::Integer(value));
        self
    }

    /// A header's text, if it has one.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            HeaderValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A header's number; a text that is one counts, since some clients send nothing else.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.0.get(name)? {
            HeaderValue::Integer(number) => Some(*number),
            HeaderValue::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A header's value, if the message has the header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.get(name)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

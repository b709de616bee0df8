//! A message on its way to the broker, and the properties of messages in both directions.

use bytes::Bytes;
use countersign_protocol::{HeaderValue, Headers, MessageId};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// A message to publish: persistent, and returned by the broker if no queue is bound for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The exchange to publish to; its name has up to 255 bytes.
    pub exchange: String,
    /// The routing key; up to 255 bytes.
    pub key: String,
    /// The message's properties.
    pub properties: Properties,
    /// The message's body, as large as the [`Publisher`](crate::Publisher) takes.
    pub body: Bytes,
}

/// The properties of a message that this contract uses. `delivery_mode` is always 2: persistent.
///
/// Each text is up to 255 bytes, the headers together up to 32 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// The message's id. The publisher gives one to a message that has none, because it tells
    /// returned messages apart by their ids.
    pub message_id: Option<String>,
    /// The message's kind (AMQP calls it `type`).
    pub kind: Option<String>,
    /// The body's content type.
    pub content_type: Option<String>,
    /// The program that sent the message.
    pub app_id: Option<String>,
    /// When the message was published, in seconds since 1970 on the publisher's clock.
    pub timestamp: Option<u64>,
    /// The headers that [`Headers`] allows and has a kind for; a reader skips the rest.
    pub headers: Headers,
}

/// A message as the client takes it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) id: ShortString,
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

const PERSISTENT: u8 = 2;
/// A message's properties travel in one frame, which is 128 KiB unless the broker is set to less;
/// larger properties would cost the connection.
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// What a header takes on the wire besides its name and its text: two lengths, the kind, a number.
const HEADER_OVERHEAD_BYTES: usize = 16;

/// Turns a message into the client's form. The error says what AMQP cannot express.
pub(crate) fn prepare(message: Outgoing) -> Result<Prepared, String> {
    let Outgoing { exchange, key, properties, body } = message;
    let id = properties.message_id.unwrap_or_else(|| MessageId::generate().to_string());
    let id = short("message id", id)?;
    let mut prepared =
        BasicProperties::default().with_delivery_mode(PERSISTENT).with_message_id(id.clone());
    if let Some(kind) = properties.kind {
        prepared = prepared.with_type(short("type", kind)?);
    }
    if let Some(content_type) = properties.content_type {
        prepared = prepared.with_content_type(short("content type", content_type)?);
    }
    if let Some(app_id) = properties.app_id {
        prepared = prepared.with_app_id(short("app id", app_id)?);
    }
    if let Some(timestamp) = properties.timestamp {
        prepared = prepared.with_timestamp(timestamp);
    }
    if let Some(headers) = prepare_headers(&properties.headers)? {
        prepared = prepared.with_headers(headers);
    }
    Ok(Prepared {
        id,
        exchange: short("exchange", exchange)?,
        key: short("key", key)?,
        properties: prepared,
        body,
    })
}

/// Why headers cannot be sent, for a person; `None` if they can. The headers that a publisher adds have
/// room besides.
#[must_use]
pub fn header_problem(headers: &Headers) -> Option<String> {
    const ROOM: usize = 1024;
    let bytes: usize = headers.iter().map(|(name, value)| header_bytes(name, value)).sum();
    let most = MAX_HEADER_BYTES - ROOM;
    (bytes > most).then(|| format!("its headers have {bytes} bytes: at most {most} are sent"))
}

/// What a header takes on the wire, at most.
fn header_bytes(name: &str, value: &HeaderValue) -> usize {
    let text = if let HeaderValue::Text(text) = value { text.len() } else { 0 };
    name.len() + text + HEADER_OVERHEAD_BYTES
}

fn prepare_headers(headers: &Headers) -> Result<Option<FieldTable>, String> {
    let mut table = FieldTable::default();
    let mut bytes = 0;
    for (name, value) in headers.iter() {
        bytes += header_bytes(name, value);
        let value = match value {
            HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
            HeaderValue::Integer(number) => AMQPValue::LongLongInt(*number),
            HeaderValue::Boolean(boolean) => AMQPValue::Boolean(*boolean),
            HeaderValue::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        };
        table.insert(short("header name", name.to_owned())?, value);
    }
    if bytes > MAX_HEADER_BYTES {
        return Err(format!("headers of {bytes} bytes: at most {MAX_HEADER_BYTES} are sent"));
    }
    Ok((bytes > 0).then_some(table))
}

fn short(what: &str, text: String) -> Result<ShortString, String> {
    let bytes = text.len();
    ShortString::try_new(text).map_err(|_| format!("{what} of {bytes} bytes: AMQP allows 255"))
}

/// Reads the properties that another client wrote, as far as this contract has a place for them.
pub(crate) fn read_properties(received: &BasicProperties) -> Properties {
    let text = |field: &Option<ShortString>| field.as_ref().map(|text| text.as_str().to_owned());
    let mut headers = Headers::new();
    for (name, value) in received.headers().iter().flatten() {
        if let Some(value) = read_header(value) {
            headers.set(name.as_str(), value);
        }
    }
    Properties {
        message_id: text(received.message_id()),
        kind: text(received.kind()),
        content_type: text(received.content_type()),
        app_id: text(received.app_id()),
        timestamp: *received.timestamp(),
        headers,
    }
}

/// Clients differ in how they write a text or a number: this reads every way.
fn read_header(value: &AMQPValue) -> Option<HeaderValue> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    Some(match value {
        AMQPValue::LongString(value) => HeaderValue::Text(text(value.as_bytes())?),
        AMQPValue::ShortString(value) => HeaderValue::Text(value.as_str().to_owned()),
        AMQPValue::ByteArray(value) => HeaderValue::Text(text(value.as_slice())?),
        AMQPValue::Boolean(value) => HeaderValue::Boolean(*value),
        AMQPValue::ShortShortInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::ShortShortUInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::ShortInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::ShortUInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::LongInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::LongUInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::LongLongInt(value) => HeaderValue::Integer(*value),
        AMQPValue::Timestamp(value) => HeaderValue::Timestamp(*value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use countersign_protocol::header;

    use super::*;

    fn outgoing(properties: Properties) -> Outgoing {
        Outgoing {
            exchange: "orders".to_owned(),
            key: "placed".to_owned(),
            properties,
            body: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn properties_are_read_as_they_were_written() {
        let mut headers = Headers::new()
            .with_integer(header::ATTEMPT, 3)
            .with_text(header::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-01");
        headers.set("urgent", HeaderValue::Boolean(true));
        headers.set("at", HeaderValue::Timestamp(1_700_000_000));
        let properties = Properties {
            message_id: Some("019a9f1e-0000-7000-8000-000000000000".to_owned()),
            kind: Some("order.placed".to_owned()),
            content_type: Some("application/json".to_owned()),
            app_id: Some("orders".to_owned()),
            timestamp: Some(1_763_000_000),
            headers,
        };
        let prepared = prepare(outgoing(properties.clone())).unwrap();
        assert_eq!(read_properties(&prepared.properties), properties);
        assert_eq!(*prepared.properties.delivery_mode(), Some(2));
    }

    #[test]
    fn a_message_without_an_id_is_given_one_of_its_own() {
        let one = prepare(outgoing(Properties::default())).unwrap();
        let other = prepare(outgoing(Properties::default())).unwrap();
        assert!(one.id.as_str().parse::<MessageId>().is_ok());
        assert_ne!(one.id, other.id);
        assert_eq!(one.properties.message_id().as_ref(), Some(&one.id));
    }

    #[test]
    fn what_amqp_cannot_say_is_refused_with_the_reason() {
        let long = "x".repeat(256);
        let mut message = outgoing(Properties::default());
        message.key.clone_from(&long);
        assert_eq!(prepare(message).unwrap_err(), "key of 256 bytes: AMQP allows 255");
        let properties = Properties { message_id: Some(long), ..Properties::default() };
        assert!(prepare(outgoing(properties)).is_err());
        let headers = Headers::new().with_text(header::REASON, &"x".repeat(MAX_HEADER_BYTES));
        assert!(prepare(outgoing(Properties { headers, ..Properties::default() })).is_err());
    }

    #[test]
    fn headers_of_other_clients_are_read_leniently() {
        let mut table = FieldTable::default();
        table.insert("short".into(), AMQPValue::ShortString("text".into()));
        table.insert("bytes".into(), AMQPValue::ByteArray(b"text".as_slice().into()));
        table.insert("not-utf8".into(), AMQPValue::LongString(vec![0xff, 0xfe].into()));
        table.insert("small".into(), AMQPValue::ShortShortInt(-1));
        table.insert("large".into(), AMQPValue::LongUInt(u32::MAX));
        table.insert("float".into(), AMQPValue::Double(1.5));
        table.insert("x-death".into(), AMQPValue::FieldArray(Vec::new().into()));
        let read = read_properties(&BasicProperties::default().with_headers(table)).headers;
        assert_eq!(read.text("short"), Some("text"));
        assert_eq!(read.text("bytes"), Some("text"));
        assert_eq!(read.integer("small"), Some(-1));
        assert_eq!(read.integer("large"), Some(i64::from(u32::MAX)));
        assert_eq!(read.iter().count(), 4, "{read:?}");
    }
}

//! A message on its way to the broker, and the properties of messages in both directions.

use bytes::Bytes;
use countersign_protocol::{HeaderValue, Headers, MessageId};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// A message to publish: persistent, and returned by the broker if no queue is bound for it.
#[derive(Clone, Debug, PartialEq)]
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

/// The properties of a message, but `delivery_mode`, which is always 2: persistent.
///
/// Each text is up to 255 bytes, the headers together up to 32 KiB.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// How the body is encoded, such as `gzip`.
    pub content_encoding: Option<String>,
    /// Which request this answers, or which answer this waits for.
    pub correlation_id: Option<String>,
    /// Where an answer is to be sent to.
    pub reply_to: Option<String>,
    /// The message's priority, in queues that have priorities.
    pub priority: Option<u8>,
    /// After how many milliseconds the message expires in a queue, as digits.
    pub expiration: Option<String>,
    /// The broker's user that published the message. The broker refuses a publish that names another
    /// one than the connection's.
    pub user_id: Option<String>,
    /// The headers that [`Headers`] allows; a reader skips the rest.
    pub headers: Headers,
    /// The headers as another client wrote them.
    pub as_received: AsReceived,
}

/// The headers of a received message in its client's own types: 32 or 64 bits, a text or bytes. A copy of the
/// message has them again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AsReceived(Option<FieldTable>);

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
/// The longest name in a table that AMQP 0-9-1 can say.
const MAX_NAME_BYTES: usize = 255;
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
    if let Some(encoding) = properties.content_encoding {
        prepared = prepared.with_content_encoding(short("content encoding", encoding)?);
    }
    if let Some(correlation_id) = properties.correlation_id {
        prepared = prepared.with_correlation_id(short("correlation id", correlation_id)?);
    }
    if let Some(reply_to) = properties.reply_to {
        prepared = prepared.with_reply_to(short("reply to", reply_to)?);
    }
    if let Some(priority) = properties.priority {
        prepared = prepared.with_priority(priority);
    }
    if let Some(expiration) = properties.expiration {
        prepared = prepared.with_expiration(short("expiration", expiration)?);
    }
    if let Some(user_id) = properties.user_id {
        prepared = prepared.with_user_id(short("user id", user_id)?);
    }
    if let Some(headers) = prepare_headers(&properties.headers, &properties.as_received)? {
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
    if let Some((name, why)) =
        headers.iter().find_map(|(name, value)| Some((name, unwritable(value)?)))
    {
        return Some(format!("its header {name:?} cannot be sent: {why}"));
    }
    (bytes > most).then(|| format!("its headers have {bytes} bytes: at most {most} are sent"))
}

/// What AMQP, or the broker, cannot read of a header's value.
fn unwritable(value: &HeaderValue) -> Option<String> {
    match value {
        // The broker reads a finite number only; another one would cost the connection.
        HeaderValue::Float(number) if !number.is_finite() => Some(format!("{number} is no number")),
        HeaderValue::List(values) => values.iter().find_map(unwritable),
        HeaderValue::Table(values) => values.iter().find_map(|(name, value)| {
            let long = name.len() > MAX_NAME_BYTES;
            let long = long.then(|| format!("a name in it is over {MAX_NAME_BYTES} bytes"));
            long.or_else(|| unwritable(value))
        }),
        _ => None,
    }
}

/// What a header takes on the wire, at most.
#[must_use]
pub fn header_bytes(name: &str, value: &HeaderValue) -> usize {
    let inside = match value {
        HeaderValue::Text(text) => text.len(),
        HeaderValue::Bytes(bytes) => bytes.len(),
        HeaderValue::List(values) => values.iter().map(|value| header_bytes("", value)).sum(),
        HeaderValue::Table(values) => {
            values.iter().map(|(name, value)| header_bytes(name, value)).sum()
        }
        _ => 0,
    };
    name.len() + inside + HEADER_OVERHEAD_BYTES
}

fn prepare_headers(headers: &Headers, received: &AsReceived) -> Result<Option<FieldTable>, String> {
    let received = received.0.as_ref().map(FieldTable::inner);
    let mut table = FieldTable::default();
    let mut bytes = 0;
    for (name, value) in headers.iter() {
        bytes += header_bytes(name, value);
        let name = short("header name", name.to_owned())?;
        let as_it_was = received.and_then(|received| received.get(&name));
        let as_it_was = as_it_was.filter(|found| read_header(found, 0).as_ref() == Some(value));
        let value = as_it_was.cloned().map_or_else(|| write_header(value), Ok)?;
        table.insert(name, value);
    }
    if bytes > MAX_HEADER_BYTES {
        return Err(format!("headers of {bytes} bytes: at most {MAX_HEADER_BYTES} are sent"));
    }
    Ok((bytes > 0).then_some(table))
}

fn write_header(value: &HeaderValue) -> Result<AMQPValue, String> {
    Ok(match value {
        HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
        HeaderValue::Integer(number) => AMQPValue::LongLongInt(*number),
        HeaderValue::Boolean(boolean) => AMQPValue::Boolean(*boolean),
        HeaderValue::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        HeaderValue::Float(number) => AMQPValue::Double(*number),
        HeaderValue::Bytes(bytes) => AMQPValue::ByteArray(bytes.as_slice().into()),
        HeaderValue::List(values) => {
            let values: Result<Vec<_>, _> = values.iter().map(write_header).collect();
            AMQPValue::FieldArray(values?.into())
        }
        HeaderValue::Table(values) => {
            let mut table = FieldTable::default();
            for (name, value) in values {
                table.insert(short("header name", name.clone())?, write_header(value)?);
            }
            AMQPValue::FieldTable(table)
        }
        HeaderValue::Nothing => AMQPValue::Void,
        other => return Err(format!("a header {other:?} cannot be written")),
    })
}

fn short(what: &str, text: String) -> Result<ShortString, String> {
    let bytes = text.len();
    ShortString::try_new(text).map_err(|_| format!("{what} of {bytes} bytes: AMQP allows 255"))
}

/// Reads the properties that another client wrote.
pub(crate) fn read_properties(received: &BasicProperties) -> Properties {
    let text = |field: &Option<ShortString>| field.as_ref().map(|text| text.as_str().to_owned());
    let mut headers = Headers::new();
    for (name, value) in received.headers().iter().flatten() {
        if let Some(value) = read_header(value, 0) {
            headers.set(name.as_str(), value);
        }
    }
    Properties {
        message_id: text(received.message_id()),
        kind: text(received.kind()),
        content_type: text(received.content_type()),
        app_id: text(received.app_id()),
        timestamp: *received.timestamp(),
        content_encoding: text(received.content_encoding()),
        correlation_id: text(received.correlation_id()),
        reply_to: text(received.reply_to()),
        priority: *received.priority(),
        expiration: text(received.expiration()),
        user_id: text(received.user_id()),
        headers,
        as_received: AsReceived(received.headers().clone()),
    }
}

/// How deep tables in a header may lie in each other; what lies deeper is skipped. No client is known to write more
/// than three.
const MAX_DEPTH: usize = 16;

/// Clients differ in how they write a text or a number: this reads every way.
fn read_header(value: &AMQPValue, depth: usize) -> Option<HeaderValue> {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => HeaderValue::Text(text.to_owned()),
        Err(_) => HeaderValue::Bytes(bytes.to_owned()),
    };
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match value {
        AMQPValue::LongString(value) => text(value.as_bytes()),
        AMQPValue::ShortString(value) => HeaderValue::Text(value.as_str().to_owned()),
        AMQPValue::ByteArray(value) => text(value.as_slice()),
        AMQPValue::Boolean(value) => HeaderValue::Boolean(*value),
        AMQPValue::ShortShortInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::ShortShortUInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::ShortInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::ShortUInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::LongInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::LongUInt(value) => HeaderValue::Integer((*value).into()),
        AMQPValue::LongLongInt(value) => HeaderValue::Integer(*value),
        AMQPValue::Timestamp(value) => HeaderValue::Timestamp(*value),
        AMQPValue::Float(value) => HeaderValue::Float((*value).into()),
        AMQPValue::Double(value) => HeaderValue::Float(*value),
        AMQPValue::DecimalValue(value) => {
            HeaderValue::Float(f64::from(value.value) / 10_f64.powi(value.scale.into()))
        }
        AMQPValue::FieldArray(values) => {
            let values = values.as_slice().iter().map(|value| read_header(value, depth + 1));
            HeaderValue::List(values.collect::<Option<_>>()?)
        }
        AMQPValue::FieldTable(table) => {
            let values = table.inner().iter();
            let read = values.map(|(name, value)| {
                Some((name.as_str().to_owned(), read_header(value, depth + 1)?))
            });
            HeaderValue::Table(read.collect::<Option<_>>()?)
        }
        AMQPValue::Void => HeaderValue::Nothing,
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
            content_encoding: Some("gzip".to_owned()),
            correlation_id: Some("request 7".to_owned()),
            reply_to: Some("answers".to_owned()),
            priority: Some(3),
            expiration: Some("60000".to_owned()),
            user_id: Some("guest".to_owned()),
            headers,
            as_received: AsReceived::default(),
        };
        let prepared = prepare(outgoing(properties.clone())).unwrap();
        let read = read_properties(&prepared.properties);
        assert_eq!(Properties { as_received: AsReceived::default(), ..read }, properties);
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
    fn what_a_header_cannot_say_is_a_problem_before_it_is_sent() {
        let table = |name: String| HeaderValue::Table([(name, HeaderValue::Nothing)].into());
        for (value, part) in [
            (HeaderValue::Float(f64::NAN), Some("NaN")),
            (HeaderValue::List(vec![HeaderValue::Float(f64::INFINITY)]), Some("inf")),
            (table("x".repeat(256)), Some("255 bytes")),
            (table("x".repeat(255)), None),
            (HeaderValue::Float(1.5), None),
        ] {
            let mut headers = Headers::new();
            headers.set("X-Own", value.clone());
            let problem = header_problem(&headers);
            assert_eq!(problem.is_some(), part.is_some(), "{value:?}: {problem:?}");
            assert!(problem.unwrap_or_default().contains(part.unwrap_or_default()));
        }
    }

    #[test]
    fn headers_of_other_clients_are_read_leniently() {
        let mut table = FieldTable::default();
        table.insert("short".into(), AMQPValue::ShortString("text".into()));
        table.insert("bytes".into(), AMQPValue::ByteArray(b"text".as_slice().into()));
        table.insert("not-utf8".into(), AMQPValue::LongString(vec![0xff, 0xfe].into()));
        table.insert("small".into(), AMQPValue::ShortShortInt(-1));
        table.insert("large".into(), AMQPValue::LongUInt(u32::MAX));
        table.insert("float".into(), AMQPValue::Float(1.5));
        table.insert("list".into(), AMQPValue::FieldArray(vec![AMQPValue::Void].into()));
        let mut inner = FieldTable::default();
        inner.insert("TraceId".into(), AMQPValue::ShortInt(7));
        table.insert("X-Table".into(), AMQPValue::FieldTable(inner));
        table.insert("x-death".into(), AMQPValue::FieldArray(Vec::new().into()));
        let original = table.clone();
        let read = read_properties(&BasicProperties::default().with_headers(table));
        let copy = prepare(outgoing(read.clone())).unwrap();
        let mut expected = original.clone();
        expected = expected
            .inner()
            .iter()
            .filter(|(name, _)| name.as_str() != "x-death")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
            .into();
        assert_eq!(copy.properties.headers().as_ref(), Some(&expected), "in the same types");
        let read = read.headers;
        assert_eq!(read.text("short"), Some("text"));
        assert_eq!(read.text("bytes"), Some("text"));
        assert_eq!(read.integer("small"), Some(-1));
        assert_eq!(read.integer("large"), Some(i64::from(u32::MAX)));
        assert_eq!(read.get("not-utf8"), Some(&HeaderValue::Bytes(vec![0xff, 0xfe])));
        assert_eq!(read.get("float"), Some(&HeaderValue::Float(1.5)));
        assert_eq!(read.get("list"), Some(&HeaderValue::List(vec![HeaderValue::Nothing])));
        let inner = [("TraceId".to_owned(), HeaderValue::Integer(7))];
        assert_eq!(read.get("X-Table"), Some(&HeaderValue::Table(inner.into())));
        assert_eq!(read.iter().count(), 8, "{read:?}");
    }
}

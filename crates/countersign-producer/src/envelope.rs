//! A message as the database stores it.

use std::collections::BTreeMap;

use countersign_protocol::{HeaderValue, MessageId};
use serde::{Deserialize, Serialize};

use crate::message::Message;
use crate::source::SourceError;

/// A stored message without its id and body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    exchange: String,
    key: String,
    kind: Option<String>,
    content_type: Option<String>,
    headers: BTreeMap<String, Header>,
    consumers: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Header {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Timestamp(u64),
}

impl Envelope {
    pub(crate) fn of(message: &Message) -> Self {
        let header = |value: &HeaderValue| match value {
            HeaderValue::Text(text) => Header::Text(text.clone()),
            HeaderValue::Integer(number) => Header::Integer(*number),
            HeaderValue::Boolean(truth) => Header::Boolean(*truth),
            HeaderValue::Timestamp(seconds) => Header::Timestamp(*seconds),
        };
        let headers = message.headers.iter();
        Self {
            exchange: message.exchange.clone(),
            key: message.key.clone(),
            kind: message.kind.clone(),
            content_type: message.content_type.clone(),
            headers: headers.map(|(name, value)| (name.to_owned(), header(value))).collect(),
            consumers: message.consumers.iter().map(ToString::to_string).collect(),
        }
    }

    /// The whole message, with its id and body.
    pub(crate) fn message(self, id: MessageId, body: Vec<u8>) -> Result<Message, SourceError> {
        let mut message = Message::new(&self.exchange, &self.key, body).with_id(id);
        message.kind = self.kind;
        message.content_type = self.content_type;
        for (name, value) in self.headers {
            message = message.with_header(
                &name,
                match value {
                    Header::Text(text) => HeaderValue::Text(text),
                    Header::Integer(number) => HeaderValue::Integer(number),
                    Header::Boolean(truth) => HeaderValue::Boolean(truth),
                    Header::Timestamp(seconds) => HeaderValue::Timestamp(seconds),
                },
            )?;
        }
        let consumers = self.consumers.iter().map(|name| name.parse());
        Ok(message.with_consumers(consumers.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_of_storage_as_it_went_in() {
        let message = Message::json("orders", "order.placed", "order.placed", &"a chair")
            .unwrap()
            .with_consumers(vec!["logistics".parse().unwrap(), "billing".parse().unwrap()])
            .with_header("traceparent", HeaderValue::Text("00-ab-cd-01".into()))
            .and_then(|message| message.with_header("urgent", HeaderValue::Boolean(true)))
            .and_then(|message| message.with_header("weight", HeaderValue::Integer(-7)))
            .and_then(|message| message.with_header("at", HeaderValue::Timestamp(7)))
            .unwrap();
        let stored = serde_json::to_string(&Envelope::of(&message)).unwrap();
        let envelope: Envelope = serde_json::from_str(&stored).unwrap();
        assert_eq!(envelope.message(message.id(), message.body.to_vec()).unwrap(), message);
    }
}

//! A message as the database stores it.

use std::collections::BTreeMap;

use countersign_protocol::{HeaderValue, MessageId};
use serde::{Deserialize, Serialize};

use crate::message::{Message, MoreProperties};
use crate::source::SourceError;

/// A stored message without its id and body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    exchange: String,
    key: String,
    kind: Option<String>,
    content_type: Option<String>,
    #[serde(flatten)]
    more: MoreProperties,
    headers: BTreeMap<String, HeaderValue>,
    consumers: Vec<String>,
}

impl Envelope {
    pub(crate) fn of(message: &Message) -> Self {
        let headers = message.headers.iter();
        Self {
            exchange: message.exchange.clone(),
            key: message.key.clone(),
            kind: message.kind.clone(),
            content_type: message.content_type.clone(),
            more: message.more.as_deref().cloned().unwrap_or_default(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.clone())).collect(),
            consumers: message.consumers.iter().map(ToString::to_string).collect(),
        }
    }

    /// The whole message, with its id and body.
    pub(crate) fn message(self, id: MessageId, body: Vec<u8>) -> Result<Message, SourceError> {
        let mut message = Message::new(&self.exchange, &self.key, body).with_id(id);
        message.kind = self.kind;
        message.content_type = self.content_type;
        message.more = (self.more != MoreProperties::default()).then(|| Box::new(self.more));
        for (name, value) in self.headers {
            message = message.with_header(&name, value)?;
        }
        let consumers = self.consumers.iter().map(|name| name.parse());
        Ok(message.with_consumers(consumers.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_message_comes_out_of_storage_as_it_went_in() {
        let message = Message::json("orders", "order.placed", "order.placed", &"a chair")
            .unwrap()
            .with_content_encoding("gzip")
            .with_correlation_id("request 7")
            .with_reply_to("answers")
            .with_priority(3)
            .with_expiration(Duration::from_secs(60))
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

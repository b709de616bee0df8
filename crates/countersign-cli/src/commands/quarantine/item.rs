//! A quarantined message, and where it came from.

use bytes::Bytes;
use countersign_amqp::{Browsed, DeliveryTag};
use countersign_protocol::{MessageId, header, topology};
use serde::Serialize;

/// A quarantined message, in hand.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) tag: DeliveryTag,
    pub(crate) shown: Shown,
    pub(crate) body: Bytes,
    pub(crate) content_type: Option<String>,
}

/// The fields of a quarantined message that a person or script sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    /// Empty if the message has none.
    pub(crate) message_id: String,
    /// When the message was put aside, in milliseconds since 1970, on the callback service's clock: the
    /// time in the id that it gave the message. 0 if the id has none.
    pub(crate) quarantined_at_ms: i64,
    /// The queue that the message came from.
    pub(crate) source: String,
    /// The sender's name for itself.
    pub(crate) app_id: String,
    /// Why the message was put aside.
    pub(crate) reason: String,
    /// Where a replay publishes the message. `None`: a replay cannot.
    pub(crate) replay_to: Option<Destination>,
    /// The size of the body.
    pub(crate) bytes: usize,
    /// The body or its beginning, with U+FFFD for bytes that are no text.
    pub(crate) body: String,
}

/// Where a message is published to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Destination {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
}

/// The part of a body that is shown.
pub(crate) enum Body {
    Beginning,
    Whole,
}

/// For a message that neither the callback service nor the broker put there.
const NO_REASON: &str = "no reason given";

/// Characters of a beginning: enough to recognise an envelope.
const BEGINNING: usize = 100;

impl Item {
    /// Reads a message of the quarantine.
    pub(crate) fn read(browsed: Browsed, body: &Body) -> Self {
        let Browsed { delivery, dead_letter } = browsed;
        let properties = delivery.properties;
        let text = |name: &str| properties.headers.text(name).map(str::to_owned);
        // A message that the broker dead-lettered has no header of the callback service.
        let (died_in, died_of) = dead_letter.map_or((None, None), |letter| {
            (Some(letter.queue), Some(format!("given up by the broker: {}", letter.reason)))
        });
        let source = text(header::SOURCE).or(died_in).unwrap_or_default();
        let message_id = properties.message_id.unwrap_or_default();
        let text_of_body = match body {
            Body::Whole => String::from_utf8_lossy(&delivery.body).into_owned(),
            Body::Beginning => beginning(&delivery.body),
        };
        let shown = Shown {
            quarantined_at_ms: message_id.parse().map_or(0, |id: MessageId| id.time().ms()),
            message_id,
            replay_to: destination(&source),
            source,
            app_id: properties.app_id.unwrap_or_default(),
            reason: text(header::REASON).or(died_of).unwrap_or_else(|| NO_REASON.to_owned()),
            bytes: delivery.body.len(),
            body: text_of_body,
        };
        Self {
            tag: delivery.tag,
            shown,
            body: delivery.body,
            content_type: properties.content_type,
        }
    }
}

/// Where a message has to be published to come back to this queue. `None`: the queue is neither of
/// confirms nor of due checks.
pub(crate) fn destination(source: &str) -> Option<Destination> {
    let to = |exchange: &str, key: &str| {
        Some(Destination { exchange: exchange.to_owned(), routing_key: key.to_owned() })
    };
    if source == topology::CHECK_DUE {
        // The check came due before: it need not wait again.
        return to(topology::CHECK_DUE, "");
    }
    let shard: u16 = source.strip_prefix(topology::CONFIRM)?.strip_prefix('.')?.parse().ok()?;
    to(topology::CONFIRM, &shard.to_string())
}

fn beginning(body: &[u8]) -> String {
    // A character has four bytes at most.
    let most = body.len().min(4 * BEGINNING);
    let text = String::from_utf8_lossy(&body[..most]);
    let mut start: String =
        text.chars().take(BEGINNING).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if start.len() < text.len() || most < body.len() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_goes_to_where_it_came_from() {
        let to = |exchange: &str, key: &str| {
            Some(Destination { exchange: exchange.to_owned(), routing_key: key.to_owned() })
        };
        for (source, expected) in [
            ("countersign.confirm.0", to("countersign.confirm", "0")),
            ("countersign.confirm.63", to("countersign.confirm", "63")),
            ("countersign.check.due", to("countersign.check.due", "")),
            ("countersign.confirm.", None),
            ("countersign.confirm", None),
            ("countersign.confirm.fallback", None),
            ("logistics.orders", None),
            ("", None),
        ] {
            assert_eq!(destination(source), expected, "{source}");
        }
    }

    #[test]
    fn only_the_beginning_of_a_body_is_told_and_it_says_so() {
        assert_eq!(beginning(b"{}"), "{}");
        assert_eq!(beginning(b"a\0\nb"), "a\u{fffd}\u{fffd}b");
        assert_eq!(beginning("ä".repeat(101).as_bytes()), format!("{}…", "ä".repeat(100)));
        assert_eq!(beginning(&[0xff; 3]), "\u{fffd}".repeat(3));
    }
}

//! What lies in quarantine, and where it came from.

use bytes::Bytes;
use countersign_amqp::{Browsed, DeliveryTag};
use countersign_protocol::{MessageId, header, topology};
use serde::Serialize;

/// A quarantined message, in hand.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// What it is taken by.
    pub(crate) tag: DeliveryTag,
    /// What is told of it.
    pub(crate) shown: Shown,
    /// Its body.
    pub(crate) body: Bytes,
    /// What it was sent as.
    pub(crate) content_type: Option<String>,
}

/// What is told of a quarantined message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    /// The id that it was put aside with. Empty if it has none.
    pub(crate) message_id: String,
    /// When it was put aside, in milliseconds since 1970, on the clock of who did. 0 if nobody knows.
    pub(crate) quarantined_at_ms: i64,
    /// The queue that it came from.
    pub(crate) source: String,
    /// Its sender's word for itself.
    pub(crate) app_id: String,
    /// What is wrong with it.
    pub(crate) reason: String,
    /// Where a replay publishes it to.
    pub(crate) replay_to: Option<Destination>,
    /// How large its body is.
    pub(crate) bytes: usize,
    /// Its body, as far as it is text; or the beginning of it.
    pub(crate) body: String,
}

/// Where a message is published to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Destination {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
}

/// How much of a body is shown of it.
pub(crate) enum Body {
    /// Its beginning.
    Beginning,
    /// All of it.
    Whole,
}

/// Somebody else published it there.
const NO_REASON: &str = "no reason given";

/// How many characters a beginning has.
const BEGINNING: usize = 100;

impl Item {
    /// Reads a message of the quarantine.
    pub(crate) fn read(browsed: Browsed, body: &Body) -> Self {
        let Browsed { delivery, dead_letter } = browsed;
        let properties = delivery.properties;
        let text = |name: &str| properties.headers.text(name).map(str::to_owned);
        // What the broker gave up carries no word of ours.
        let (died_in, died_of) = dead_letter.map_or((None, None), |letter| {
            (Some(letter.queue), Some(format!("given up by the broker: {}", letter.reason)))
        });
        let source = text(header::SOURCE).or(died_in).unwrap_or_default();
        let message_id = properties.message_id.unwrap_or_default();
        let told = match body {
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
            body: told,
        };
        Self {
            tag: delivery.tag,
            shown,
            body: delivery.body,
            content_type: properties.content_type,
        }
    }
}

/// Where what came from this queue is published to, to come there again.
pub(crate) fn destination(source: &str) -> Option<Destination> {
    let to = |exchange: &str, key: &str| {
        Some(Destination { exchange: exchange.to_owned(), routing_key: key.to_owned() })
    };
    if source == topology::CHECK_DUE {
        // Its check came due before: it is looked up at once.
        return to(topology::CHECK_DUE, "");
    }
    let shard: u16 = source.strip_prefix(topology::CONFIRM)?.strip_prefix('.')?.parse().ok()?;
    to(topology::CONFIRM, &shard.to_string())
}

fn beginning(body: &[u8]) -> String {
    // Four bytes for each character hold the beginning, whatever it is.
    let most = body.len().min(4 * BEGINNING);
    let text = String::from_utf8_lossy(&body[..most]);
    let mut told: String =
        text.chars().take(BEGINNING).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if told.len() < text.len() || most < body.len() {
        told.push('…');
    }
    told
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

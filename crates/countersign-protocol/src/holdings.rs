//! Holdings: what a consumer says, again and again, of what it holds of its queue.
//!
//! They travel among confirms, so that the callback service knows what stands behind them: a message that
//! was sent before such a report, that no consumer holds, that does not lie in the queue and that is not
//! confirmed, is missing.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::envelope::Unreadable;
use crate::id::MessageId;
use crate::layout::{self, Version};
use crate::name::Name;

/// The property `type` of holdings. Confirms have another or none.
pub const KIND: &str = "countersign.holdings";

/// The most messages that one report names as slow: a hundred handlers may hang before they hold up
/// what is known of others.
pub const MAX_SLOW: usize = 100;

/// What one subscription of a consumer held at one moment.
///
/// Whoever sends it keeps an order: first the queue is counted (`ready`, `consumers`); then every
/// delivery that left the queue before is awaited; then the deliveries are counted (`taken`, `done`,
/// `slow`); and the next report is made only when the broker has this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// The consumer that says it.
    pub consumer: Name,
    /// The queue that it consumes.
    pub queue: String,
    /// Which subscription: a random UUID, another one after each reconnect.
    pub session: Uuid,
    /// The number of the report in its session, from 1.
    pub report: u64,
    /// Messages in the queue that no consumer holds.
    pub ready: u64,
    /// Consumers of the queue, this one included.
    pub consumers: u64,
    /// How many deliveries the session has received.
    pub taken: u64,
    /// Every delivery up to this number has ended, but for those in `slow`: it was confirmed, and the
    /// broker has the confirm.
    pub done: u64,
    /// Messages that have been in hand for long, [`MAX_SLOW`] at most.
    pub slow: Vec<MessageId>,
}

#[derive(Serialize, Deserialize)]
#[serde(expecting = "an object")]
struct Fields<'a> {
    v: Version,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    consumer: Cow<'a, str>,
    #[serde(borrow)]
    queue: Cow<'a, str>,
    #[serde(borrow)]
    session: Cow<'a, str>,
    report: u64,
    ready: u64,
    consumers: u64,
    taken: u64,
    done: u64,
    #[serde(borrow)]
    slow: Vec<Cow<'a, str>>,
}

/// Tells an operator who looks at the body alone, in quarantine for example, what it is.
const HOLDINGS: &str = "holdings";

/// The longest name of a queue that AMQP 0-9-1 can say (a short string), in bytes.
const MAX_QUEUE_BYTES: usize = 255;

/// The greatest number that a database stores.
const MAX_NUMBER: u64 = i64::MAX.unsigned_abs();

impl Holdings {
    /// The envelope's JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { report, ready, consumers, taken, done, .. } = *self;
        layout::to_json(&Fields {
            v: Version,
            kind: HOLDINGS.into(),
            consumer: self.consumer.as_str().into(),
            queue: self.queue.as_str().into(),
            session: self.session.to_string().into(),
            report,
            ready,
            consumers,
            taken,
            done,
            slow: self.slow.iter().map(|id| id.to_string().into()).collect(),
        })
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// When it is not that of holdings, or says what cannot be.
    pub fn read(body: &[u8]) -> Result<Self, Unreadable> {
        let fields: Fields<'_> = layout::open(HOLDINGS, body)?;
        let malformed =
            |cause: &str| Unreadable::Malformed { kind: HOLDINGS, cause: cause.to_owned() };
        if fields.kind != HOLDINGS {
            return Err(malformed("its kind is another"));
        }
        let queue = fields.queue.into_owned();
        if queue.is_empty() || queue.len() > MAX_QUEUE_BYTES || queue.chars().any(char::is_control)
        {
            return Err(malformed("its queue has no name that a queue can have"));
        }
        let Fields { report, ready, consumers, taken, done, .. } = fields;
        if [report, ready, consumers, taken, done].into_iter().any(|number| number > MAX_NUMBER) {
            return Err(malformed("a number is too great"));
        }
        if report == 0 || consumers == 0 || done > taken || fields.slow.len() > MAX_SLOW {
            return Err(malformed("its numbers cannot be"));
        }
        let slow: Result<Vec<MessageId>, _> = fields.slow.iter().map(|id| id.parse()).collect();
        Ok(Self {
            consumer: layout::read_name("consumer", &fields.consumer)?,
            queue,
            session: fields.session.parse().map_err(|_| malformed("its session is no UUID"))?,
            report,
            ready,
            consumers,
            taken,
            done,
            slow: slow.map_err(|_| malformed("a slow message has no id"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../golden/holdings.json");

    #[derive(Deserialize)]
    struct Golden {
        written: Vec<String>,
        refused: Vec<Refused>,
    }

    #[derive(Deserialize)]
    struct Refused {
        body: String,
        reason: String,
    }

    #[test]
    fn holdings_are_read_as_they_were_written() {
        let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
        for body in golden.written {
            let holdings = Holdings::read(body.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(holdings.encode()).unwrap(), body);
        }
        for Refused { body, reason } in golden.refused {
            assert_eq!(Holdings::read(body.as_bytes()).unwrap_err().to_string(), reason, "{body}");
        }
    }
}

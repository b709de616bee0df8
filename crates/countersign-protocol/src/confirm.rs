//! The confirm: what a consumer says about the messages that it received.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::attempt::Attempt;
use crate::envelope::{Envelope, Unreadable, clean_reason};
use crate::id::MessageId;
use crate::layout::{self, Layout, Version};
use crate::name::Name;
use crate::refusal::Refusal;
use crate::time::UnixMillis;
use crate::window::Window;

/// A confirm: what became of messages at one consumer.
pub type Confirm = Envelope<ConfirmHeader>;

/// The header of a [`Confirm`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmHeader {
    /// The consumer that says it.
    pub consumer: Name,
}

/// A message in a [`Confirm`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmedMessage {
    /// The message's id.
    pub id: MessageId,
    /// What became of it.
    pub outcome: Outcome,
    /// The upstream that sent it, if the consumer says.
    pub upstream: Option<Name>,
    /// The queue it came through, if the consumer says.
    pub queue: Option<String>,
    /// Which publish of it this is about, if the consumer says.
    pub attempt: Option<Attempt>,
    /// When it was published, on the upstream's clock, as its header said.
    pub published_at: Option<UnixMillis>,
    /// When the consumer finished with it, on the consumer's clock.
    pub at: Option<UnixMillis>,
}

/// What became of a message at a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message took effect.
    Processed,
    /// The consumer will never accept the message: it is not resent, and an operator looks at it.
    Rejected {
        /// Why the consumer rejects it.
        reason: String,
    },
    /// The handler failed, and the consumer tries again by itself.
    Retrying {
        /// When the consumer tries again, on the consumer's clock.
        until: UnixMillis,
        /// What failed.
        reason: String,
    },
}

impl ConfirmedMessage {
    /// An entry that says no more than it must.
    #[must_use]
    pub fn new(id: MessageId, outcome: Outcome) -> Self {
        Self {
            id,
            outcome,
            upstream: None,
            queue: None,
            attempt: None,
            published_at: None,
            at: None,
        }
    }
}

/// The fields of a confirm, in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(expecting = "an object")]
struct Fields<N, E> {
    v: Version,
    consumer: N,
    confirms: E,
}

impl Layout for ConfirmHeader {
    type Entry = ConfirmedMessage;

    fn write(&self, confirms: &[impl Serialize]) -> Vec<u8> {
        layout::to_json(&Fields { v: Version, consumer: &self.consumer, confirms })
    }

    fn open(body: &[u8]) -> Result<(Self, Vec<&RawValue>), Unreadable> {
        let fields: Fields<Cow<'_, str>, Vec<&RawValue>> = layout::open("confirm", body)?;
        let consumer = layout::read_name("consumer", &fields.consumer)?;
        Ok((Self { consumer }, fields.confirms))
    }

    fn read_entry(json: &str, window: Window) -> Result<ConfirmedMessage, Refusal> {
        read_message(json, window)
    }
}

/// The fields of an entry, in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(expecting = "an object")]
struct Entry<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<UnixMillis>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    upstream: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    queue: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    published_at_ms: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_ms: Option<UnixMillis>,
}

impl Serialize for ConfirmedMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (outcome, reason, until_ms) = match &self.outcome {
            Outcome::Processed => ("processed", None, None),
            Outcome::Rejected { reason } => ("rejected", Some(reason), None),
            Outcome::Retrying { until, reason } => ("retrying", Some(reason), Some(*until)),
        };
        Entry {
            id: self.id.to_string().into(),
            outcome: outcome.into(),
            reason: reason.map(|reason| clean_reason(reason).into()),
            until_ms,
            upstream: self.upstream.as_ref().map(|name| name.as_str().into()),
            queue: self.queue.as_ref().map(Into::into),
            attempt: self.attempt.map(Attempt::number),
            published_at_ms: self.published_at,
            at_ms: self.at,
        }
        .serialize(serializer)
    }
}

fn read_message(json: &str, window: Window) -> Result<ConfirmedMessage, Refusal> {
    /// The longest name of a queue that AMQP 0-9-1 can say (a short string), in bytes.
    const MAX_QUEUE_BYTES: usize = 255;
    let entry: Entry<'_> = layout::read_object(json.as_bytes()).map_err(Refusal::Malformed)?;
    let id = layout::read_id(&entry.id, window)?;
    let reason = clean_reason(entry.reason.as_deref().unwrap_or_default());
    let outcome = match &*entry.outcome {
        "processed" => Outcome::Processed,
        "rejected" => Outcome::Rejected { reason },
        "retrying" => match entry.until_ms {
            // As far ahead as an id may be: a clock that is wrong by more must not silence the check.
            Some(until) if until <= window.newest => {
                Outcome::Retrying { until: until.max(UnixMillis::EPOCH), reason }
            }
            _ => return Err(Refusal::BadUntil),
        },
        other => return Err(Refusal::UnknownOutcome(other.chars().take(64).collect())),
    };
    let upstream = entry
        .upstream
        .map(|name| name.parse().map_err(|cause| Refusal::BadName { field: "upstream", cause }))
        .transpose()?;
    let queue = entry.queue.map(Cow::into_owned);
    if queue.as_ref().is_some_and(|q| q.len() > MAX_QUEUE_BYTES || q.chars().any(char::is_control))
    {
        return Err(Refusal::BadQueue);
    }
    let known_time = |at: &UnixMillis| (UnixMillis::EPOCH..=UnixMillis::MAX_IN_ID).contains(at);
    Ok(ConfirmedMessage {
        id,
        outcome,
        upstream,
        queue,
        attempt: entry.attempt.and_then(Attempt::from_number),
        published_at: entry.published_at_ms.filter(known_time),
        at: entry.at_ms.filter(known_time),
    })
}

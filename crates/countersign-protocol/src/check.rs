//! The check: "these messages should have been confirmed by now".

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::arming::Arming;
use crate::envelope::{self, Horizon, Refusal, Refused, Unreadable, VERSION};
use crate::id::MessageId;
use crate::name::Name;
use crate::time::UnixMillis;

/// The most consumers that one message can wait for.
pub const MAX_CONSUMERS: usize = 16;

/// A check: which messages an upstream wants to see confirmed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Who sends the messages, and is asked to send them again.
    pub upstream: Name,
    /// When it was armed, on the upstream's clock.
    pub armed_at: UnixMillis,
    /// 1 to 1,000 messages.
    pub messages: Vec<CheckedMessage>,
}

/// A message in a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedMessage {
    /// Its id.
    pub id: MessageId,
    /// Who has to confirm it: 1 to [`MAX_CONSUMERS`], each once.
    pub consumers: Vec<Name>,
    /// Which arming of it this is: a [rolled-back notice](crate::RolledBack) of the same arming
    /// settles it. `None`: nothing but confirms does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arming: Option<Arming>,
}

impl Check {
    /// The envelope's JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            v: u64,
            upstream: &'a Name,
            armed_at_ms: UnixMillis,
            messages: &'a [CheckedMessage],
        }
        let envelope = Envelope {
            v: VERSION,
            upstream: &self.upstream,
            armed_at_ms: self.armed_at,
            messages: &self.messages,
        };
        serde_json::to_vec(&envelope).expect("an envelope of texts and numbers is always JSON")
    }

    /// Reads an envelope: what it says, and the entries that cannot be taken.
    ///
    /// # Errors
    /// When nothing in it can be read.
    pub fn read(body: &[u8], horizon: Horizon) -> Result<(Self, Vec<Refused>), Unreadable> {
        #[derive(Deserialize)]
        #[serde(expecting = "an object")]
        struct Envelope<'a> {
            v: u64,
            #[serde(borrow)]
            upstream: Cow<'a, str>,
            armed_at_ms: i64,
            #[serde(borrow)]
            messages: Vec<&'a RawValue>,
        }
        let envelope: Envelope<'_> = envelope::open("check", body)?;
        if envelope.v != VERSION {
            return Err(Unreadable::UnknownVersion(envelope.v));
        }
        let upstream = envelope
            .upstream
            .parse()
            .map_err(|cause| Unreadable::BadName { field: "upstream", cause })?;
        let (messages, refused) =
            envelope::read_entries(&envelope.messages, |entry| read_message(entry, horizon))?;
        let armed_at = UnixMillis::from_ms(envelope.armed_at_ms)
            .max(UnixMillis::EPOCH)
            .min(UnixMillis::MAX_IN_ID);
        Ok((Self { upstream, armed_at, messages }, refused))
    }
}

fn read_message(entry: &str, horizon: Horizon) -> Result<CheckedMessage, Refusal> {
    #[derive(Deserialize)]
    #[serde(expecting = "an object")]
    struct Entry<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
        #[serde(borrow)]
        consumers: Vec<Cow<'a, str>>,
        #[serde(borrow, default)]
        arming: Option<Cow<'a, str>>,
    }
    let entry: Entry<'_> = envelope::read_object(entry.as_bytes()).map_err(Refusal::Malformed)?;
    let id = horizon.admit(&entry.id)?;
    if entry.consumers.is_empty() || entry.consumers.len() > MAX_CONSUMERS {
        return Err(Refusal::ConsumerCount(entry.consumers.len()));
    }
    let mut consumers = entry
        .consumers
        .iter()
        .map(|name| name.parse().map_err(|cause| Refusal::BadName { field: "consumers", cause }))
        .collect::<Result<Vec<Name>, _>>()?;
    consumers.sort();
    consumers.dedup();
    // One that cannot be read is none: the check then asks, as it would without.
    let arming = entry.arming.and_then(|text| text.parse().ok());
    Ok(CheckedMessage { id, consumers, arming })
}

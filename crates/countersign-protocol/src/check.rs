//! The check: "these messages should have been confirmed by now".

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::arming_id::ArmingId;
use crate::database_id::DatabaseId;
use crate::envelope::{Envelope, Unreadable};
use crate::id::MessageId;
use crate::layout::{self, Layout, Version};
use crate::name::Name;
use crate::refusal::Refusal;
use crate::time::UnixMillis;
use crate::window::Window;

/// The most consumers that one message can wait for.
pub const MAX_CONSUMERS: usize = 16;

/// A check: which messages an upstream wants to see confirmed, and by which consumers.
pub type Check = Envelope<CheckHeader>;

/// The header of a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckHeader {
    /// The upstream that sends the messages, and that the callback service asks to send them again.
    pub upstream: Name,
    /// The database that the messages' transactions commit in. `None`: the upstream has no such identity,
    /// because it keeps its data elsewhere.
    pub database: Option<DatabaseId>,
    /// When the upstream armed the check, on the upstream's clock.
    pub armed_at: UnixMillis,
}

/// A message in a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedMessage {
    /// The message's id.
    pub id: MessageId,
    /// The consumers that have to confirm it: 1 to [`MAX_CONSUMERS`], each once.
    pub consumers: Vec<Name>,
    /// Which arming of the message this is: a [rolled-back notice](crate::RolledBack) of the same arming
    /// settles the check. `None`: nothing but confirms settles it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arming: Option<ArmingId>,
}

/// The fields of a check, in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(expecting = "an object")]
struct Fields<N, D, E> {
    v: Version,
    upstream: N,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<D>,
    armed_at_ms: UnixMillis,
    messages: E,
}

impl Layout for CheckHeader {
    type Entry = CheckedMessage;

    fn write(&self, messages: &[impl Serialize]) -> Vec<u8> {
        let Self { upstream, database, armed_at } = self;
        layout::to_json(&Fields {
            v: Version,
            upstream,
            database: database.as_ref(),
            armed_at_ms: *armed_at,
            messages,
        })
    }

    fn open(body: &[u8]) -> Result<(Self, Vec<&RawValue>), Unreadable> {
        let fields: Fields<Cow<'_, str>, Cow<'_, str>, Vec<&RawValue>> =
            layout::open("check", body)?;
        let upstream = layout::read_name("upstream", &fields.upstream)?;
        // Without an identity no upstream says "never committed" for certain. Refusing the envelope would
        // cost the check.
        let database = fields.database.and_then(|text| text.parse().ok());
        let armed_at = fields.armed_at_ms.max(UnixMillis::EPOCH).min(UnixMillis::MAX_IN_ID);
        Ok((Self { upstream, database, armed_at }, fields.messages))
    }

    fn read_entry(json: &str, window: Window) -> Result<CheckedMessage, Refusal> {
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
        let entry: Entry<'_> = layout::read_object(json.as_bytes()).map_err(Refusal::Malformed)?;
        let id = layout::read_id(&entry.id, window)?;
        let given = entry.consumers.len();
        if !(1..=MAX_CONSUMERS).contains(&given) {
            return Err(Refusal::ConsumerCount { given, most: MAX_CONSUMERS });
        }
        let mut consumers = entry
            .consumers
            .iter()
            .map(|name| {
                name.parse().map_err(|cause| Refusal::BadName { field: "consumers", cause })
            })
            .collect::<Result<Vec<Name>, _>>()?;
        consumers.sort();
        consumers.dedup();
        // An arming that cannot be read costs one call to the upstream; refusing the entry would cost the check.
        let arming = entry.arming.and_then(|text| text.parse().ok());
        Ok(CheckedMessage { id, consumers, arming })
    }
}

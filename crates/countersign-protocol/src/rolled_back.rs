//! The rolled-back notice: "these armings will never be committed, do not ask".

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::arming_id::ArmingId;
use crate::envelope::{Envelope, Unreadable};
use crate::id::MessageId;
use crate::layout::{self, Layout, Version};
use crate::name::Name;
use crate::refusal::Refusal;
use crate::window::Window;

/// A notice: checks of an upstream that need not be asked about, because their transactions were
/// rolled back.
///
/// It saves a call and nothing more: when a notice is lost, the callback service asks.
pub type RolledBack = Envelope<RolledBackHeader>;

/// The header of a [`RolledBack`] notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBackHeader {
    /// The upstream that armed the checks.
    pub upstream: Name,
}

/// A message in a [`RolledBack`] notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RolledBackMessage {
    /// The message's id.
    pub id: MessageId,
    /// Which check of it: the one that carries the same arming.
    pub arming: ArmingId,
}

/// The fields of a notice, in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(expecting = "an object")]
struct Fields<N, E> {
    v: Version,
    upstream: N,
    rolled_back: E,
}

impl Layout for RolledBackHeader {
    type Entry = RolledBackMessage;

    fn write(&self, rolled_back: &[impl Serialize]) -> Vec<u8> {
        layout::to_json(&Fields { v: Version, upstream: &self.upstream, rolled_back })
    }

    fn open(body: &[u8]) -> Result<(Self, Vec<&RawValue>), Unreadable> {
        let fields: Fields<Cow<'_, str>, Vec<&RawValue>> = layout::open("rolled-back", body)?;
        let upstream = layout::read_name("upstream", &fields.upstream)?;
        Ok((Self { upstream }, fields.rolled_back))
    }

    fn read_entry(json: &str, window: Window) -> Result<RolledBackMessage, Refusal> {
        #[derive(Deserialize)]
        #[serde(expecting = "an object")]
        struct Entry<'a> {
            #[serde(borrow)]
            id: Cow<'a, str>,
            #[serde(borrow)]
            arming: Cow<'a, str>,
        }
        let entry: Entry<'_> = layout::read_object(json.as_bytes()).map_err(Refusal::Malformed)?;
        let id = layout::read_id(&entry.id, window)?;
        Ok(RolledBackMessage { id, arming: entry.arming.parse()? })
    }
}

//! The rolled-back notice: "these armings will never be committed, do not ask".

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::arming::Arming;
use crate::envelope::{self, Horizon, Refusal, Refused, Unreadable, VERSION};
use crate::id::MessageId;
use crate::name::Name;

/// A notice: checks of an upstream that need not be asked about, because their transactions were
/// rolled back.
///
/// It saves a call, and is worth nothing more: whoever loses it only asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// Whose checks they are.
    pub upstream: Name,
    /// 1 to 1,000 messages.
    pub rolled_back: Vec<RolledBackMessage>,
}

/// A message in a [`RolledBack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RolledBackMessage {
    /// Its id.
    pub id: MessageId,
    /// Which check of it: the one that carries the same.
    pub arming: Arming,
}

impl RolledBack {
    /// The envelope's JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            v: u64,
            upstream: &'a Name,
            rolled_back: &'a [RolledBackMessage],
        }
        let envelope =
            Envelope { v: VERSION, upstream: &self.upstream, rolled_back: &self.rolled_back };
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
            #[serde(borrow)]
            rolled_back: Vec<&'a RawValue>,
        }
        let envelope: Envelope<'_> = envelope::open("rolled-back", body)?;
        if envelope.v != VERSION {
            return Err(Unreadable::UnknownVersion(envelope.v));
        }
        let upstream = envelope
            .upstream
            .parse()
            .map_err(|cause| Unreadable::BadName { field: "upstream", cause })?;
        let (rolled_back, refused) =
            envelope::read_entries(&envelope.rolled_back, |entry| read_message(entry, horizon))?;
        Ok((Self { upstream, rolled_back }, refused))
    }
}

fn read_message(entry: &str, horizon: Horizon) -> Result<RolledBackMessage, Refusal> {
    #[derive(Deserialize)]
    #[serde(expecting = "an object")]
    struct Entry<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
        #[serde(borrow)]
        arming: Cow<'a, str>,
    }
    let entry: Entry<'_> = envelope::read_object(entry.as_bytes()).map_err(Refusal::Malformed)?;
    let id = horizon.admit(&entry.id)?;
    Ok(RolledBackMessage { id, arming: entry.arming.parse()? })
}

//! What the envelopes have in common: version, limits, and what is wrong with
//! the entries that cannot be taken.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::arming::InvalidArming;
use crate::id::{InvalidId, MessageId};
use crate::name::InvalidName;
use crate::time::UnixMillis;

/// The version of the wire contract that this crate reads and writes.
pub const VERSION: u64 = 1;

/// The largest body, in bytes. RabbitMQ 4 refuses messages over 16 MiB by closing the channel, and
/// with it every publisher confirm in flight: stay far below.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The most entries in one envelope.
pub const MAX_ENTRIES: usize = 1_000;

/// The longest reason, in characters. A longer one is cut.
pub const MAX_REASON_CHARS: usize = 1_000;

/// How far ahead of the reader's clock an id may be.
pub const MAX_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// Which ids a reader can take: those that its partitions have room for.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    /// The reader's clock.
    pub now: UnixMillis,
    /// Ids older than this are refused: what was known of them is gone.
    pub retention: Duration,
}

/// Why a whole envelope cannot be read. It goes to quarantine as it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// Over [`MAX_BODY_BYTES`].
    #[error("body of {0} bytes: at most {MAX_BODY_BYTES} are read")]
    TooLarge(usize),
    /// Not JSON, or not of this envelope's shape.
    #[error("not a {kind} envelope: {cause}")]
    Malformed {
        /// `check`, `confirm` or `rolled-back`.
        kind: &'static str,
        /// What the JSON parser says.
        cause: String,
    },
    /// A version that this crate does not know.
    #[error("version {0}: only version {VERSION} is known; is the sender newer than this reader?")]
    UnknownVersion(u64),
    /// No usable `upstream` or `consumer`.
    #[error("{field}: {cause}")]
    BadName {
        /// `upstream` or `consumer`.
        field: &'static str,
        /// What is wrong with it.
        cause: InvalidName,
    },
    /// Nothing in it, or more than [`MAX_ENTRIES`].
    #[error("{0} entries: 1 to {MAX_ENTRIES} are read")]
    EntryCount(usize),
}

/// An entry that cannot be taken, with the reason. The rest of its envelope is not affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The entry as it came: JSON text.
    pub entry: String,
    /// What is wrong with it, for a person.
    pub reason: String,
}

/// Why one entry is refused; its text is what a person reads in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    #[error("entry: {0}")]
    Malformed(String),
    #[error("id: {0}")]
    BadId(#[from] InvalidId),
    #[error(
        "id: more than 24 hours in the future ({0} ms since 1970): is the sender's clock right?"
    )]
    IdAhead(UnixMillis),
    #[error("id: older than the retention ({0} ms since 1970): what was known of it is gone")]
    IdTooOld(UnixMillis),
    #[error("{field}: {cause}")]
    BadName { field: &'static str, cause: InvalidName },
    #[error("consumers: {0} given; 1 to {max} can be listed", max = crate::check::MAX_CONSUMERS)]
    ConsumerCount(usize),
    #[error("arming: {0}")]
    BadArming(#[from] InvalidArming),
    #[error("outcome: {0:?} is none of processed, rejected, retrying")]
    UnknownOutcome(String),
    #[error("until_ms: a retrying entry says when it tries again, at most 24 hours ahead")]
    BadUntil,
    #[error("queue: up to 255 bytes without control characters")]
    BadQueue,
}

/// Takes an envelope's body apart, as far as kinds agree: size, JSON, version.
pub(crate) fn open<'a, E: Deserialize<'a>>(
    kind: &'static str,
    body: &'a [u8],
) -> Result<E, Unreadable> {
    #[derive(Deserialize)]
    #[serde(expecting = "an object")]
    struct Versioned {
        v: u64,
    }
    if body.len() > MAX_BODY_BYTES {
        return Err(Unreadable::TooLarge(body.len()));
    }
    match read_object::<E>(body) {
        Ok(envelope) => Ok(envelope),
        // Another version may have another shape: its number is the better reason.
        Err(cause) => match read_object::<Versioned>(body) {
            Ok(Versioned { v }) if v != VERSION => Err(Unreadable::UnknownVersion(v)),
            _ => Err(Unreadable::Malformed { kind, cause }),
        },
    }
}

/// Reads a JSON object; the error is a reason for a person.
///
/// serde reads a struct from an array, too: that would be a second way to write an envelope, which
/// nobody else's reader knows. And its messages quote the offending text whole, a megabyte if need
/// be, while a reason has to fit into a header.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    if text.trim_ascii_start().starts_with(b"[") {
        return Err("an array, where an object is expected".to_owned());
    }
    serde_json::from_slice(text).map_err(|e| clean_reason(&e.to_string()))
}

/// Reads each entry by itself; those that cannot be taken are set aside with the reason.
pub(crate) fn read_entries<E>(
    raw: &[&RawValue],
    mut read: impl FnMut(&str) -> Result<E, Refusal>,
) -> Result<(Vec<E>, Vec<Refused>), Unreadable> {
    if raw.is_empty() || raw.len() > MAX_ENTRIES {
        return Err(Unreadable::EntryCount(raw.len()));
    }
    let mut taken = Vec::with_capacity(raw.len());
    let mut refused = Vec::new();
    for entry in raw {
        match read(entry.get()) {
            Ok(entry) => taken.push(entry),
            Err(reason) => {
                let entry = entry.get().to_owned();
                refused.push(Refused { entry, reason: reason.to_string() });
            }
        }
    }
    Ok((taken, refused))
}

impl Horizon {
    pub(crate) fn admit(&self, text: &str) -> Result<MessageId, Refusal> {
        let id: MessageId = text.parse()?;
        if id.time() > self.now.after(MAX_AHEAD) {
            Err(Refusal::IdAhead(id.time()))
        } else if id.time() < self.now.before(self.retention) {
            Err(Refusal::IdTooOld(id.time()))
        } else {
            Ok(id)
        }
    }
}

/// A reason as it can be stored and shown: control characters replaced, cut to
/// [`MAX_REASON_CHARS`].
#[must_use]
pub fn clean_reason(text: &str) -> String {
    text.chars()
        .take(MAX_REASON_CHARS)
        .map(
            |c| {
                if c.is_control() && c != '\n' && c != '\t' {
                    char::REPLACEMENT_CHARACTER
                } else {
                    c
                }
            },
        )
        .collect()
}

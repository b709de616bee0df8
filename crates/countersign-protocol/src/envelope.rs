//! The envelope: what checks, confirms and rolled-back notices have in common.
//!
//! An envelope is a JSON object with a version `v`, a header that says who speaks, and 1 to 1,000 entries. A
//! reader takes every entry by itself: an entry that it cannot take never costs its neighbours.

use serde_json::value::RawValue;
use thiserror::Error;

use crate::layout::Layout;
use crate::name::InvalidName;
use crate::window::Window;

/// The version of the wire contract that this crate reads and writes.
pub const VERSION: u64 = 1;

/// The largest body, in bytes. RabbitMQ 4 refuses messages over 16 MiB by closing the channel, and
/// with it every publisher confirm in flight: stay far below.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The most entries in one envelope: one statement of the callback service takes several full envelopes.
pub const MAX_ENTRIES: usize = 1_000;

/// The longest reason, in characters. A longer one is cut, because a reason also travels in a header, and
/// headers have to fit into one frame.
pub const MAX_REASON_CHARS: usize = 1_000;

/// Entries under one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<H: Header> {
    /// Who says it.
    pub header: H,
    /// 1 to [`MAX_ENTRIES`] entries.
    pub entries: Vec<H::Entry>,
}

/// The header of one kind of envelope: of a [`Check`](crate::Check), a [`Confirm`](crate::Confirm) or a
/// [`RolledBack`](crate::RolledBack) notice. No other crate can add a kind.
pub trait Header: Layout {}

impl<H: Layout> Header for H {}

/// An entry that a reader cannot take. The rest of its envelope is not affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The JSON of an envelope with this entry alone, as the sender wrote it, under the header of the
    /// envelope that it came in. It can be kept in quarantine and replayed from there as it is.
    pub envelope: Vec<u8>,
    /// What is wrong with the entry, for a person.
    pub reason: String,
}

/// Why a reader cannot read a whole envelope. Such a body goes to quarantine as it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// The body is over [`MAX_BODY_BYTES`].
    #[error("body of {0} bytes: at most {MAX_BODY_BYTES} are read")]
    TooLarge(usize),
    /// The body is not JSON, or not of this envelope's shape.
    #[error("not a {kind} envelope: {cause}")]
    Malformed {
        /// `check`, `confirm`, `rolled-back` or `marker`.
        kind: &'static str,
        /// What the JSON parser says.
        cause: String,
    },
    /// This crate does not know the version.
    #[error("version {0}: only version {VERSION} is known; is the sender newer than this reader?")]
    UnknownVersion(u64),
    /// The header has no usable `upstream` or `consumer`.
    #[error("{field}: {cause}")]
    BadName {
        /// `upstream` or `consumer`.
        field: &'static str,
        /// What is wrong with the name.
        cause: InvalidName,
    },
    /// The envelope has no entry, or more than [`MAX_ENTRIES`].
    #[error("{0} entries: 1 to {MAX_ENTRIES} are read")]
    EntryCount(usize),
}

impl<H: Header> Envelope<H> {
    /// An envelope of these entries.
    #[must_use]
    pub const fn new(header: H, entries: Vec<H::Entry>) -> Self {
        Self { header, entries }
    }

    /// The envelope's JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.header.write(&self.entries)
    }

    /// Reads an envelope: its header and the entries that can be taken, in their order, and the entries
    /// that cannot.
    ///
    /// # Errors
    /// When the reader can take nothing of it.
    pub fn read(body: &[u8], window: Window) -> Result<(Self, Vec<Refused>), Unreadable> {
        let (header, raw): (H, Vec<&RawValue>) = H::open(body)?;
        if raw.is_empty() || raw.len() > MAX_ENTRIES {
            return Err(Unreadable::EntryCount(raw.len()));
        }
        let mut entries = Vec::with_capacity(raw.len());
        let mut refused = Vec::new();
        for raw in raw {
            match H::read_entry(raw.get(), window) {
                Ok(entry) => entries.push(entry),
                Err(refusal) => refused
                    .push(Refused { envelope: header.write(&[raw]), reason: refusal.to_string() }),
            }
        }
        Ok((Self { header, entries }, refused))
    }
}

/// A reason as it can be stored and shown: control characters replaced, cut to
/// [`MAX_REASON_CHARS`].
#[must_use]
pub fn clean_reason(text: &str) -> String {
    let clean = |c: char| match c {
        '\n' | '\t' => c,
        // Postgres stores no NUL, and a terminal obeys the others.
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().take(MAX_REASON_CHARS).map(clean).collect()
}

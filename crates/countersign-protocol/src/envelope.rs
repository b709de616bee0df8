//! The envelope: what checks, confirms and rolled-back notices have in common.
//!
//! An envelope is a JSON object with a version `v`, a header that says who speaks, and 1 to 1,000 entries. A
//! reader takes every entry by itself: an entry that it cannot take never costs its neighbours.

use serde_json::value::RawValue;

use crate::layout::Layout;
pub use crate::limits::{MAX_BODY_BYTES, MAX_ENTRIES, MAX_REASON_CHARS, VERSION, clean_reason};
pub use crate::refusal::Unreadable;
use crate::window::Window;

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
#[derive(Clone, Debug)]
pub struct Refused {
    /// The entry's JSON, as the sender wrote it.
    pub entry: Box<RawValue>,
    /// What is wrong with the entry, for a person.
    pub reason: String,
}

impl PartialEq for Refused {
    fn eq(&self, other: &Self) -> bool {
        (self.entry.get(), &self.reason) == (other.entry.get(), &other.reason)
    }
}

impl Eq for Refused {}

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
                Err(refusal) => {
                    refused.push(Refused { entry: raw.to_owned(), reason: refusal.to_string() });
                }
            }
        }
        Ok((Self { header, entries }, refused))
    }

    /// The JSON of an envelope with the refused entries alone, as the sender wrote them, under this
    /// envelope's header. It can be kept in quarantine and replayed from there as it is.
    #[must_use]
    pub fn encode_refused(&self, refused: &[Refused]) -> Vec<u8> {
        let entries: Vec<&RawValue> = refused.iter().map(|refused| &*refused.entry).collect();
        self.header.write(&entries)
    }
}

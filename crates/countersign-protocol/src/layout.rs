//! How an envelope is laid out as JSON: what each kind decides by itself, and the reading that kinds share.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::id::MessageId;
use crate::limits::{MAX_BODY_BYTES, VERSION, clean_reason};
use crate::name::Name;
use crate::refusal::{Refusal, Unreadable};
use crate::window::{OutsideWindow, Window};

/// What one kind of envelope decides by itself. `Header` is its public face: this module is private, so that
/// no other crate can implement it.
pub trait Layout: Sized {
    /// An entry of such an envelope.
    type Entry: Serialize;

    /// The JSON of an envelope with this header. The entries are written as they are: an entry that was
    /// refused is still the sender's text.
    fn write(&self, entries: &[impl Serialize]) -> Vec<u8>;

    /// Reads the header, and leaves the entries as JSON.
    ///
    /// # Errors
    /// When the body is no such envelope.
    fn open(body: &[u8]) -> Result<(Self, Vec<&RawValue>), Unreadable>;

    /// Reads an entry.
    ///
    /// # Errors
    /// When a reader with this window cannot take it.
    fn read_entry(json: &str, window: Window) -> Result<Self::Entry, Refusal>;
}

/// The field `v`, which holds [`VERSION`] and nothing else.
pub(crate) struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            VERSION => Ok(Self),
            v => Err(D::Error::custom(Unreadable::UnknownVersion(v))),
        }
    }
}

/// An object's JSON.
pub(crate) fn to_json(object: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(object).expect("an object of texts and numbers is always JSON")
}

/// Reads a body's object, whose field `v` is a [`Version`].
pub(crate) fn open<'a, T: Deserialize<'a>>(
    kind: &'static str,
    body: &'a [u8],
) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    #[serde(expecting = "an object")]
    struct Versioned {
        v: u64,
    }
    if body.len() > MAX_BODY_BYTES {
        return Err(Unreadable::TooLarge(body.len()));
    }
    read_object(body).map_err(|cause| match read_object::<Versioned>(body) {
        // Another version may have another shape: its number is the better reason.
        Ok(Versioned { v }) if v != VERSION => Unreadable::UnknownVersion(v),
        _ => Unreadable::Malformed { kind, cause },
    })
}

/// Reads a JSON object; the error is a reason for a person.
///
/// serde reads a struct from an array, too: that would be a second way to write an envelope, and readers in
/// other languages would not know it. And serde's messages quote the offending text whole, a megabyte if
/// need be, while a reason has to fit into a header.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    if text.trim_ascii_start().starts_with(b"[") {
        return Err("an array, where an object is expected".to_owned());
    }
    serde_json::from_slice(text).map_err(|e| clean_reason(&e.to_string()))
}

/// Reads an entry's id.
pub(crate) fn read_id(text: &str, window: Window) -> Result<MessageId, Refusal> {
    let id: MessageId = text.parse()?;
    match window.admit(id) {
        Ok(()) => Ok(id),
        Err(OutsideWindow::TooOld) => Err(Refusal::IdTooOld(id.time())),
        Err(OutsideWindow::Ahead) => Err(Refusal::IdAhead(id.time())),
    }
}

/// Reads the name in a header's field.
pub(crate) fn read_name(field: &'static str, text: &str) -> Result<Name, Unreadable> {
    text.parse().map_err(|cause| Unreadable::BadName { field, cause })
}

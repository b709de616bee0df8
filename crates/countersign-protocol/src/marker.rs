//! The marker: sent by the callback service through a confirm shard, to learn that everything that
//! was in the shard before it has been recorded.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::envelope::Unreadable;
use crate::layout::{self, Version};

/// The property `type` of a marker. Confirms have another or none.
pub const KIND: &str = "countersign.marker";

/// A marker. It travels among confirms, to `countersign.confirm` with its shard's number as key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marker {
    /// The shard that the callback service sent it through.
    pub shard: u16,
    /// The number by which the callback service knows it.
    pub number: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(expecting = "an object")]
struct Fields<'a> {
    v: Version,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    shard: u16,
    number: i64,
}

/// Tells an operator who looks at the body alone, in quarantine for example, that it is a marker.
const MARKER: &str = "marker";

impl Marker {
    /// The envelope's JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { shard, number } = *self;
        layout::to_json(&Fields { v: Version, kind: MARKER.into(), shard, number })
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// When it is not that of a marker.
    pub fn read(body: &[u8]) -> Result<Self, Unreadable> {
        let Fields { kind, shard, number, .. } = layout::open(MARKER, body)?;
        if kind != MARKER {
            let cause = "its kind is another".to_owned();
            return Err(Unreadable::Malformed { kind: MARKER, cause });
        }
        Ok(Self { shard, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let marker = Marker { shard: 63, number: i64::MAX };
        assert_eq!(Marker::read(&marker.encode()), Ok(marker));
    }

    #[test]
    fn nothing_else_is_read_as_a_marker() {
        for body in [
            "",
            "[]",
            r#"{"v":1,"consumer":"logistics","confirms":[]}"#,
            r#"{"v":1,"kind":"confirm","shard":0,"number":1}"#,
            r#"{"v":1,"kind":"marker","shard":-1,"number":1}"#,
            r#"{"v":1,"kind":"marker","shard":0}"#,
        ] {
            assert!(Marker::read(body.as_bytes()).is_err(), "{body}");
        }
        let newer = br#"{"v":2,"kind":"marker","shard":0,"number":1}"#;
        assert_eq!(Marker::read(newer), Err(Unreadable::UnknownVersion(2)));
    }
}

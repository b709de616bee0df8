//! The vectors in `golden/`, which other languages can test against, too.

use std::time::Duration;

use countersign_protocol::check::CheckHeader;
use countersign_protocol::confirm::ConfirmHeader;
use countersign_protocol::envelope::{Envelope, Header};
use countersign_protocol::rolled_back::RolledBackHeader;
use countersign_protocol::{MessageId, Refused, UnixMillis, Window};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelopes {
    #[serde(rename = "about")]
    _about: String,
    now_ms: i64,
    retention_ms: u64,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    about: String,
    body: String,
    /// Whether a writer writes exactly this body.
    #[serde(default)]
    written: bool,
    /// What is taken of it, as a writer would write it. `None`: the whole body is refused.
    taken: Option<Value>,
    #[serde(default)]
    refused: Vec<Value>,
    /// Why the whole body is refused.
    unreadable: Option<String>,
}

impl Envelopes {
    /// Holds every vector against the envelope's reader, and against its writer.
    fn hold<H: Header>(&self) {
        let now = UnixMillis::from_ms(self.now_ms);
        let window = Window::at(now, Duration::from_millis(self.retention_ms));
        for vector in &self.vectors {
            let result = Envelope::<H>::read(vector.body.as_bytes(), window)
                .map(|(envelope, refused)| (envelope.encode(), refused));
            if vector.written {
                let (written, _) = result.as_ref().expect("what a writer writes can be read");
                assert_eq!(String::from_utf8_lossy(written), vector.body, "{}", vector.about);
            }
            if let Ok((_, refused)) = &result
                && !refused.is_empty()
            {
                let (envelope, _) =
                    Envelope::<H>::read(vector.body.as_bytes(), window).expect("it was read above");
                let quarantined = envelope.encode_refused(refused);
                let (again, still_refused) = Envelope::<H>::read(&quarantined, window)
                    .expect("what goes to quarantine can be replayed");
                assert!(again.entries.is_empty(), "{}", vector.about);
                assert_eq!(printed(&still_refused), printed(refused), "{}", vector.about);
            }
            let (taken, refused, unreadable) = match result {
                Ok((written, refused)) => {
                    let taken: Value = serde_json::from_slice(&written).expect("JSON is written");
                    (Some(taken), printed(&refused), None)
                }
                Err(unreadable) => (None, Vec::new(), Some(unreadable.to_string())),
            };
            assert_eq!(taken, vector.taken, "{}", vector.about);
            assert_eq!(refused, vector.refused, "{}", vector.about);
            assert_eq!(unreadable, vector.unreadable, "{}", vector.about);
        }
    }
}

/// What is refused, as the golden files write it.
fn printed(refused: &[Refused]) -> Vec<Value> {
    refused.iter().map(|r| json!({"entry": r.entry.get(), "reason": r.reason})).collect()
}

#[test]
fn checks_read_as_the_golden_file_says() {
    let envelopes: Envelopes =
        serde_json::from_str(include_str!("../../golden/check.json")).unwrap();
    envelopes.hold::<CheckHeader>();
}

#[test]
fn confirms_read_as_the_golden_file_says() {
    let envelopes: Envelopes =
        serde_json::from_str(include_str!("../../golden/confirm.json")).unwrap();
    envelopes.hold::<ConfirmHeader>();
}

#[test]
fn rolled_back_notices_read_as_the_golden_file_says() {
    let envelopes: Envelopes =
        serde_json::from_str(include_str!("../../golden/rolled_back.json")).unwrap();
    envelopes.hold::<RolledBackHeader>();
}

#[test]
fn ids_read_as_the_golden_file_says() {
    #[derive(Deserialize)]
    struct Ids {
        valid: Vec<Valid>,
        invalid: Vec<Invalid>,
    }
    #[derive(Deserialize)]
    struct Valid {
        about: String,
        text: String,
        ms: i64,
    }
    #[derive(Deserialize)]
    struct Invalid {
        about: String,
        text: String,
        reason: String,
    }
    let ids: Ids = serde_json::from_str(include_str!("../../golden/ids.json")).unwrap();
    for id in ids.valid {
        let read: MessageId = id.text.parse().unwrap_or_else(|e| panic!("{}: {e}", id.about));
        assert_eq!(read.time().ms(), id.ms, "{}", id.about);
        assert_eq!(read.to_string(), id.text.to_lowercase(), "{}", id.about);
    }
    for id in ids.invalid {
        let reason = id.text.parse::<MessageId>().map_err(|e| e.to_string());
        assert_eq!(reason, Err(id.reason), "{}", id.about);
    }
}

//! Whatever comes, nothing panics, nothing grows, and one bad entry never costs its neighbours.

use countersign_protocol::confirm::{ConfirmHeader, ConfirmedMessage};
use countersign_protocol::envelope::{MAX_BODY_BYTES, MAX_ENTRIES, MAX_REASON_CHARS};
use countersign_protocol::{
    Check, Confirm, MessageId, Name, Outcome, Refused, RolledBack, Tier, Unreadable,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use crate::generate::{self, NOW, WINDOW};

/// Reads a body in every way. What comes back has to be bounded, whatever went in.
fn read_all(body: &[u8]) {
    let bounded = |refused: &[Refused]| {
        for entry in refused {
            assert!(entry.reason.chars().count() <= MAX_REASON_CHARS + 100, "{}", entry.reason);
            assert!(!entry.reason.contains(is_bad_in_a_reason), "{:?}", entry.reason);
        }
    };
    let short = |unreadable: Unreadable| {
        let reason = unreadable.to_string();
        assert!(reason.chars().count() <= MAX_REASON_CHARS + 100, "{reason}");
        assert!(!reason.contains(is_bad_in_a_reason), "{reason:?}");
    };
    match Check::read(body, WINDOW) {
        Ok((check, refused)) => {
            assert!((1..=MAX_ENTRIES).contains(&(check.entries.len() + refused.len())));
            bounded(&refused);
        }
        Err(unreadable) => short(unreadable),
    }
    match RolledBack::read(body, WINDOW) {
        Ok((notice, refused)) => {
            assert!((1..=MAX_ENTRIES).contains(&(notice.entries.len() + refused.len())));
            bounded(&refused);
        }
        Err(unreadable) => short(unreadable),
    }
    match Confirm::read(body, WINDOW) {
        Ok((confirm, refused)) => {
            assert!((1..=MAX_ENTRIES).contains(&(confirm.entries.len() + refused.len())));
            bounded(&refused);
        }
        Err(unreadable) => short(unreadable),
    }
}

fn is_bad_in_a_reason(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
}

/// Any JSON; the names of fields are often those of the envelopes.
fn any_json() -> impl Strategy<Value = Value> {
    let known = select(vec![
        "v",
        "upstream",
        "consumer",
        "armed_at_ms",
        "messages",
        "confirms",
        "rolled_back",
        "arming",
        "id",
        "consumers",
        "outcome",
        "reason",
        "until_ms",
        "queue",
        "attempt",
        "published_at_ms",
        "at_ms",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from(1)),
        Just(Value::from("processed")),
        Just(Value::from("logistics")),
        generate::id().prop_map(|id| Value::from(id.to_string())),
        generate::id_at_hand().prop_map(|id| Value::from(id.to_string())),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        let key = prop_oneof![4 => known.clone().prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(key, inner, 0..8).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// An entry that is a confirm's or a check's, but for one field.
fn spoilt_entry() -> impl Strategy<Value = Value> {
    let field =
        select(vec!["id", "consumers", "outcome", "until_ms", "queue", "upstream", "arming"]);
    (generate::id_at_hand(), field, any_json()).prop_map(|(id, field, value)| {
        let mut entry = json!({
            "id": id.to_string(), "outcome": "retrying", "consumers": ["a"],
            "arming": "0123456789abcdef",
        });
        entry[field] = value;
        entry
    })
}

fn confirmed(id: MessageId) -> Value {
    json!({"id": id.to_string(), "outcome": "processed"})
}

fn checked(id: MessageId) -> Value {
    json!({"id": id.to_string(), "consumers": ["logistics"]})
}

fn rolled_back(id: MessageId) -> Value {
    json!({"id": id.to_string(), "arming": "0123456789abcdef"})
}

proptest! {
    #[test]
    fn any_bytes_are_survived(body in vec(any::<u8>(), 0..400)) {
        read_all(&body);
    }

    #[test]
    fn any_json_is_survived(body in any_json()) {
        read_all(body.to_string().as_bytes());
    }

    #[test]
    fn any_fields_are_survived(
        v in prop_oneof![3 => Just(json!(1)), 1 => any_json()],
        from in prop_oneof![3 => Just(json!("orders")), 1 => any_json()],
        at in prop_oneof![3 => Just(json!(1)), 1 => any_json()],
        entries in prop_oneof![3 => vec(any_json(), 0..5).prop_map(Value::from), 1 => any_json()],
    ) {
        let body = json!({
            "v": v, "upstream": from, "consumer": from, "armed_at_ms": at,
            "messages": entries, "confirms": entries, "rolled_back": entries,
        });
        read_all(body.to_string().as_bytes());
    }

    #[test]
    fn an_envelope_with_some_bytes_changed_is_survived(
        check in generate::check(),
        confirm in generate::confirm(),
        rolled_back in generate::rolled_back(),
        changes in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in any::<Index>(),
    ) {
        for mut body in [check.encode(), confirm.encode(), rolled_back.encode()] {
            for (index, byte) in &changes {
                let at = index.index(body.len());
                body[at] = *byte;
            }
            read_all(&body);
            body.truncate(cut.index(body.len()));
            read_all(&body);
        }
    }

    #[test]
    fn any_text_as_an_id_a_name_or_a_tier_is_survived(text: String) {
        let _ = text.parse::<MessageId>();
        let _ = text.parse::<Tier>();
        if let Err(reason) = text.parse::<Name>() {
            prop_assert!(reason.to_string().len() < 2_000);
        }
    }

    /// However the bad entries lie among the good ones, the good ones are taken, in their order, and
    /// every entry is either taken or refused.
    #[test]
    fn a_bad_entry_never_costs_its_neighbours(
        entries in vec(
            prop_oneof![
                generate::id_at_hand().prop_map(Ok),
                prop_oneof![any_json(), spoilt_entry()].prop_map(Err),
            ],
            1..40,
        ),
    ) {
        let body = |good: fn(MessageId) -> Value| -> Vec<Value> {
            entries.iter().map(|e| e.as_ref().map_or_else(Value::clone, |id| good(*id))).collect()
        };
        let good: Vec<MessageId> = entries.iter().filter_map(|e| e.as_ref().ok().copied()).collect();
        let is_in_order = |taken: &[MessageId]| {
            let mut taken = taken.iter();
            good.iter().all(|id| taken.any(|t| t == id))
        };

        let check = json!({"v": 1, "upstream": "orders", "armed_at_ms": 1, "messages": body(checked)});
        let (check, refused) = Check::read(check.to_string().as_bytes(), WINDOW).unwrap();
        let taken: Vec<MessageId> = check.entries.iter().map(|message| message.id).collect();
        prop_assert_eq!(taken.len() + refused.len(), entries.len());
        prop_assert!(is_in_order(&taken));

        let notice = json!({"v": 1, "upstream": "orders", "rolled_back": body(rolled_back)});
        let (notice, refused) = RolledBack::read(notice.to_string().as_bytes(), WINDOW).unwrap();
        let taken: Vec<MessageId> = notice.entries.iter().map(|message| message.id).collect();
        prop_assert_eq!(taken.len() + refused.len(), entries.len());
        prop_assert!(is_in_order(&taken));

        let confirm = json!({"v": 1, "consumer": "logistics", "confirms": body(confirmed)});
        let (confirm, refused) = Confirm::read(confirm.to_string().as_bytes(), WINDOW).unwrap();
        let taken: Vec<MessageId> = confirm.entries.iter().map(|message| message.id).collect();
        prop_assert_eq!(taken.len() + refused.len(), entries.len());
        prop_assert!(is_in_order(&taken));
    }

    /// The reader's own rule, said again in another way.
    #[test]
    fn an_id_is_taken_from_the_retention_to_a_day_ahead(id in generate::id(), near in generate::id_at_hand()) {
        for id in [id, near] {
            let header = ConfirmHeader { consumer: "logistics".parse().unwrap() };
            let confirm =
                Confirm::new(header, vec![ConfirmedMessage::new(id, Outcome::Processed)]);
            let (_, refused) = Confirm::read(&confirm.encode(), WINDOW).unwrap();
            let now = NOW.ms();
            let in_reach = (now - 30 * 86_400_000..=now + 86_400_000).contains(&id.time().ms());
            prop_assert_eq!(refused.is_empty(), in_reach);
        }
    }
}

#[test]
fn a_body_over_1_mib_is_not_parsed() {
    let body = vec![b' '; MAX_BODY_BYTES + 1];
    assert_eq!(Check::read(&body, WINDOW), Err(Unreadable::TooLarge(body.len())));
    assert_eq!(Confirm::read(&body, WINDOW), Err(Unreadable::TooLarge(body.len())));
    let blank = Check::read(&body[1..], WINDOW).unwrap_err();
    assert!(matches!(blank, Unreadable::Malformed { .. }), "{blank}");
}

#[test]
fn more_than_1000_entries_are_refused_whole() {
    let entries = |n| vec![confirmed(MessageId::from_parts(NOW, [0; 10])); n];
    let body = |n| json!({"v": 1, "consumer": "logistics", "confirms": entries(n)}).to_string();
    let (confirm, _) = Confirm::read(body(1_000).as_bytes(), WINDOW).unwrap();
    assert_eq!(confirm.entries.len(), 1_000);
    let refusal = Confirm::read(body(1_001).as_bytes(), WINDOW);
    assert_eq!(refusal, Err(Unreadable::EntryCount(1_001)));
    let empty = format!(r#"{{"v":1,"consumer":"a","confirms":[{}0]}}"#, "0,".repeat(400_000));
    assert_eq!(Confirm::read(empty.as_bytes(), WINDOW), Err(Unreadable::EntryCount(400_001)));
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = MAX_BODY_BYTES / (open.len() + close.len()) - 100;
        let nested = format!("{}0{}", open.repeat(depth), close.repeat(depth));
        read_all(nested.as_bytes());
        read_all(open.repeat(MAX_BODY_BYTES / open.len()).as_bytes());
        for place in [
            r#"{"v":1,"consumer":"logistics","x":NESTED,"confirms":[0]}"#,
            r#"{"v":NESTED,"consumer":"logistics","confirms":[0]}"#,
            r#"{"v":1,"consumer":"logistics","confirms":NESTED}"#,
            r#"{"v":1,"consumer":"logistics","confirms":[{"id":NESTED,"outcome":"processed"}]}"#,
            r#"{"v":1,"consumer":"logistics","confirms":[{"x":NESTED,"outcome":"processed"}]}"#,
        ] {
            read_all(place.replace("NESTED", &nested).as_bytes());
        }
    }
}

/// A reason travels in a header, and headers have to fit into one frame: a reason of a megabyte
/// would close the connection that reports it.
#[test]
fn a_reason_does_not_quote_a_megabyte() {
    let long = "x".repeat(MAX_BODY_BYTES - 200);
    for body in [
        json!({"v": long}),
        json!({"v": 1, "consumer": long, "confirms": [0], "upstream": long, "armed_at_ms": 1, "messages": [0]}),
        json!({"v": 1, "consumer": "a", "confirms": long}),
        json!({"v": 1, "consumer": "a", "confirms": [long]}),
        json!({"v": 1, "consumer": "a", "confirms": [{"id": "a", "outcome": "processed", "attempt": long}]}),
        json!({"v": 1, "consumer": "a", "confirms": [{"id": long, "outcome": long}]}),
    ] {
        read_all(body.to_string().as_bytes());
    }
}

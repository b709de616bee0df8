//! Only headers that may be sent are ever held.

use countersign_protocol::header::{self, HeaderValue, Headers};
use proptest::prelude::*;

#[test]
fn what_belongs_to_the_broker_cannot_be_set() {
    for name in [
        "x-death",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-first-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        "x-last-death-exchange",
        "x-delivery-count",
        "x-acquired-count",
        "x-opt-enqueue-time",
        "x-stream-offset",
        "x-delay",
        "x-",
        "CC",
        "BCC",
        "",
        "a\0",
        "a\n",
    ] {
        let mut headers = Headers::new();
        assert!(!headers.set(name, HeaderValue::Boolean(true)), "{name:?} was set");
        assert_eq!(headers, Headers::new(), "{name:?}");
    }
}

#[test]
fn what_other_clients_use_can_be_set() {
    for name in
        ["X-Request-Id", "__TypeId__", "MT-Host-MachineName", "TraceId", "Cc", "über", "1st"]
    {
        assert!(Headers::new().set(name, HeaderValue::Boolean(true)), "{name:?}");
    }
}

#[test]
fn every_header_of_the_contract_can_be_set() {
    for name in [
        header::ATTEMPT,
        header::PUBLISHED_AT_MS,
        header::FAILURES,
        header::REASON,
        header::SOURCE,
        header::TRACEPARENT,
        header::TRACESTATE,
    ] {
        assert_eq!(Headers::new().with_integer(name, 1).integer(name), Some(1), "{name}");
        assert_eq!(Headers::new().with_text(name, "a").text(name), Some("a"), "{name}");
    }
}

#[test]
fn a_number_in_text_counts_as_a_number_and_nothing_else_does() {
    let mut headers = Headers::new();
    for (value, number) in [
        (HeaderValue::Integer(-7), Some(-7)),
        (HeaderValue::Text("12".into()), Some(12)),
        (HeaderValue::Text("12.0".into()), None),
        (HeaderValue::Text(String::new()), None),
        (HeaderValue::Text("99999999999999999999".into()), None),
        (HeaderValue::Boolean(true), None),
        (HeaderValue::Timestamp(12), None),
    ] {
        headers.set(header::ATTEMPT, value.clone());
        assert_eq!(headers.integer(header::ATTEMPT), number, "{value:?}");
    }
}

proptest! {
    #[test]
    fn no_name_gets_past_the_rule(name in prop_oneof![any::<String>(), "[xX]-[a-z-]{0,20}", "[a-zA-Z-]{0,9}", "[a-z]{250,260}"]) {
        let mut headers = Headers::new();
        let was_set = headers.set(&name, HeaderValue::Integer(1));
        prop_assert_eq!(was_set, headers.iter().any(|(held, _)| held == name));
        if was_set {
            prop_assert!(!name.starts_with("x-") && name != "CC" && name != "BCC");
            prop_assert!((1..=255).contains(&name.len()));
        }
    }
}

//! What the service tells about a message.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{SOON, eventually};
use serde_json::json;
use tonic::Code;

use crate::stage::Stage;
use crate::upstream::{Upstream, say};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_told_from_beginning_to_end() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let id = MessageId::generate();
    let text = id.to_string();
    let told = stage.told(&text).await.unwrap();
    assert_eq!((told.state.as_str(), told.reason.as_str()), ("unknown", ""));

    let retrying = json!({ "id": text, "outcome": "retrying", "until_ms": 1, "reason": "locked" });
    stage.say("billing", vec![retrying]).await;
    let processed = json!({ "id": text, "outcome": "processed", "attempt": 1 });
    stage.say("logistics", vec![processed]).await;
    stage.recorded("logistics", id).await;
    let told = stage.told(&text).await.unwrap();
    assert_eq!(told.state, "confirmed", "before its check is due");

    stage.check(&[id], &["billing", "logistics"]).await;
    upstream.is_asked(id, 2).await;
    stage.row_when(id, "sent again", |row| row.state == "waiting" && row.resends == 1).await;
    let told = stage.told(&text).await.unwrap();
    assert_eq!(told.state, "waiting");
    assert_eq!(told.upstream, "orders");
    assert_eq!(told.consumers, ["billing", "logistics"]);
    assert_eq!(told.resends, 1);
    assert!(told.next_at_ms > 0);
    assert_eq!((told.confirms.len(), told.confirms[0].attempt), (1, 1));
    assert_eq!((told.reports[0].consumer.as_str(), told.reports[0].until_ms), ("billing", 1));

    stage.confirm("billing", &[id]).await;
    stage.state(id, "confirmed").await;
    let told = stage.told(&text).await.unwrap();
    assert_eq!(told.state, "confirmed");
    assert_eq!(told.next_at_ms, 0);
    assert!(told.reports.is_empty(), "the confirm stands for it: {told:?}");
    let history: Vec<_> = told
        .history
        .iter()
        .map(|event| (event.from_state.as_str(), event.to_state.as_str(), event.resends))
        .collect();
    let expected = [
        ("", "waiting", 0),
        ("waiting", "asking", 1),
        ("asking", "waiting", 1),
        ("waiting", "confirmed", 1),
    ];
    assert_eq!(history, expected);
    assert!(told.history.is_sorted_by_key(|event| event.at_ms));
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_an_invalid_argument_and_says_why() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    for nonsense in ["", "7", "'; DROP TABLE overdue", "7b0dd3ba-6b1a-4e0c-9a6e-0b2ab7d8e4c1"] {
        let status = stage.told(nonsense).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("UUIDv7"), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_is_told_before_the_check_is_due() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let id = MessageId::generate().to_string();
    let rejected = json!({ "id": id, "outcome": "rejected", "reason": "no such article" });
    stage.say("logistics", vec![rejected]).await;
    let told = eventually("the rejection is recorded", SOON, async || {
        let told = stage.told(&id).await.unwrap();
        if told.reports.is_empty() { Err(told) } else { Ok(told) }
    })
    .await;
    assert_eq!(told.state, "unknown");
    assert_eq!(told.reason, "not confirmed, but rejected by logistics");
    assert_eq!(told.reports[0].reason, "no such article");
}

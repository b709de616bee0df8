//! Checks that come due, looked up.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use serde_json::json;

use crate::stage::Stage;
use crate::upstream::{Upstream, say};

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_message_leaves_no_trace_when_its_check_comes_due() {
    let upstream = Upstream::always(say(Outcome::InProgress)).await;
    let mut stage = Stage::new(&upstream, &[]).await;
    let (confirmed, not) = (MessageId::generate(), MessageId::generate());
    stage.confirm("logistics", &[confirmed]).await;
    stage.recorded("logistics", confirmed).await;
    stage.check(&[confirmed, not], &["logistics"]).await;
    stage.state(not, "waiting").await;
    assert_eq!(stage.row(confirmed).await, None);
    upstream.is_asked(not, 2).await;
    assert_eq!(upstream.attempts(confirmed), [] as [u32; 0]);
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_goes_the_whole_way_through_its_wait_queue() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &["check-tiers=100ms,1h"]).await;
    let id = MessageId::generate();
    let check = json!({ "v": 1, "upstream": "orders", "armed_at_ms": 1,
        "messages": [{ "id": id.to_string(), "consumers": ["logistics"] }] });
    stage.publish("countersign.check", "100ms", check.to_string().as_bytes()).await;
    let asked = upstream.is_asked(id, 2).await;
    assert_eq!(asked.missing_consumers, ["logistics"]);
    assert!(asked.reason.contains("logistics"), "{}", asked.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_is_listed_has_to_confirm() {
    let upstream = Upstream::always(say(Outcome::InProgress)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let id = MessageId::generate();
    stage.confirm("logistics", &[id]).await;
    stage.confirm("somebody-else", &[id]).await;
    stage.recorded("somebody-else", id).await;
    stage.check(&[id], &["billing", "logistics"]).await;
    assert_eq!(upstream.is_asked(id, 2).await.missing_consumers, ["billing"]);
    stage.confirm("billing", &[id]).await;
    stage.state(id, "confirmed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_check_for_the_same_consumers_changes_neither_an_open_row_nor_a_closed_one() {
    let upstream = Upstream::always(say(Outcome::Withdrawn)).await;
    let stage = Stage::new(&upstream, &["max-resends=0"]).await;
    let parked = MessageId::generate();
    stage.check(&[parked], &["logistics"]).await;
    let before = stage.state(parked, "parked").await;
    let id = MessageId::generate();
    stage.check(&[parked, id], &["logistics"]).await;
    stage.state(id, "parked").await;
    assert_eq!(stage.row(parked).await, Some(before));
    assert_eq!(stage.history(parked).await, ["waiting", "parked"]);

    stage.confirm("logistics", &[id]).await;
    stage.state(id, "confirmed").await;
    let after = MessageId::generate();
    stage.check(&[id, after], &["logistics"]).await;
    stage.state(after, "parked").await;
    assert_eq!(stage.state(id, "confirmed").await.upstream, "orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_upstreams_may_use_one_id() {
    let mut stage = Stage::empty(&[
        "max-resends=0",
        "upstreams=orders=http://127.0.0.1:1,returns=http://127.0.0.1:1",
    ])
    .await;
    stage.start().await;
    let id = MessageId::generate();
    stage.check_of("orders", &[id], &["logistics"]).await;
    stage.check_of("returns", &[id], &["logistics"]).await;
    stage.rows_are("parked", 2).await;
    stage.confirm("logistics", &[id]).await;
    stage.rows_are("confirmed", 2).await;
}

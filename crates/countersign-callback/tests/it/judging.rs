//! What a round, or whoever records a confirm, knows of a row, and in which order it has read that.

use std::collections::BTreeSet;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{SOON, eventually};
use serde_json::json;

use crate::blocking::{hold_confirms, is_blocked, record_unseen};
use crate::progress::{QUEUE, SENT_AT, confirms};
use crate::stage::Stage;
use crate::upstream::{Upstream, say};

/// Returns when a deferred row was judged twice from now on, or is deferred no more. Of the first
/// judgement the facts may be older than this call.
pub(crate) async fn is_judged_anew(stage: &Stage, id: MessageId) {
    let mut due = BTreeSet::new();
    eventually(&format!("{id} is judged anew"), SOON, async || {
        let (due_at, is_deferred): (Option<String>, bool) = sqlx::query_as(
            "SELECT due_at::text, cause = 'confirm_under_way' FROM overdue WHERE message_id = $1",
        )
        .bind(id.uuid())
        .fetch_one(&stage.pool)
        .await
        .unwrap();
        due.insert(due_at);
        !is_deferred || due.len() > 2
    })
    .await;
}

/// The facts are a confirm and a marker behind it, both of which come back while a round stands between its
/// two readings. If the round read the marker's return last, it would take the message for missing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_never_newer_than_the_confirms() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    // From here on a marker has come back, and logistics is far beyond every message.
    let first = MessageId::generate();
    stage.check(&[first], &["logistics"]).await;
    upstream.is_asked(first, 2).await;
    let reached = json!({ "upstream": "orders", "published_at_ms": SENT_AT });
    confirms(&stage, "logistics", QUEUE, reached).await;

    let mut marking = stage.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE shard_watermark").execute(&mut *marking).await.unwrap();
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    is_blocked(&stage, "watermark").await;
    record_unseen(&stage, "logistics", id).await;
    sqlx::query("UPDATE shard_watermark SET sent_at = clock_timestamp()")
        .execute(&mut *marking)
        .await
        .unwrap();
    marking.commit().await.unwrap();
    stage.row_when(id, "judged", |row| row.state != "waiting" || row.resends > 0).await;
    assert_eq!(upstream.attempts(id), [] as [u32; 0], "it was confirmed before the marker came");
    stage.state(id, "confirmed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_comes_while_its_row_is_waited_for_is_seen() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &["max-resends=0"]).await;
    let id = MessageId::generate();
    stage.check(&[id], &["billing", "logistics"]).await;
    stage.state(id, "parked").await;
    let mut blocking = stage.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM overdue WHERE message_id = $1 FOR UPDATE")
        .bind(id.uuid())
        .execute(&mut *blocking)
        .await
        .unwrap();
    stage.confirm("logistics", &[id]).await;
    is_blocked(&stage, "take").await;
    // Nobody looks for the row because of this one: the look that is under way has to see it.
    record_unseen(&stage, "billing", id).await;
    blocking.rollback().await.unwrap();
    let after = MessageId::generate();
    stage.confirm("logistics", &[after]).await;
    stage.recorded("logistics", after).await;
    assert_eq!(stage.row(id).await.unwrap().state, "confirmed", "all have confirmed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferral_does_not_move_the_moment_of_missing() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let blocking = hold_confirms(&stage).await;
    // Behind this confirm no marker comes back.
    stage.confirm("logistics", &[MessageId::generate()]).await;
    is_blocked(&stage, "confirm").await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    stage.row_when(id, "deferred", |row| row.reason.contains("may be with the broker")).await;
    is_judged_anew(&stage, id).await;
    let moved = "SELECT count(*) FROM overdue WHERE missing_after <> since";
    assert_eq!(stage.count(moved).await, 0, "the row would chase the watermark for ever");
    blocking.rollback().await.unwrap();
    upstream.is_asked(id, 2).await;
}

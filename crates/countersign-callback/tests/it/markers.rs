//! Confirm markers: while a confirm may be with the broker, nothing is asked for.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{SOON, counts, eventually};
use serde_json::json;
use sqlx::PgPool;

use crate::blocking::{hold_confirm, hold_confirms, is_blocked};
use crate::judging::is_judged_anew;
use crate::replicas::start_doomed;
use crate::stage::Stage;
use crate::upstream::{Upstream, say};

const SHARD: &str = "countersign.confirm.0";

/// So many messages are confirmed, then their checks come due. Returns when they are overdue.
async fn confirmed_and_due(stage: &Stage, count: usize) -> Vec<MessageId> {
    let ids: Vec<MessageId> = (0..count).map(|_| MessageId::generate()).collect();
    for ids in ids.chunks(10) {
        stage.confirm("logistics", ids).await;
    }
    stage.check(&ids, &["logistics"]).await;
    let waiting = "SELECT count(*) FROM overdue WHERE cause = 'confirm_under_way'";
    stage.counts("rows that wait for a marker", waiting, i64::try_from(count).unwrap()).await;
    ids
}

async fn a_marker_is_on_its_way(pool: &PgPool) {
    const AWAITED: &str = "SELECT count(*) FROM confirm_marker WHERE awaited";
    counts("markers on their way", SOON, 1_i64, async || {
        sqlx::query_scalar(AWAITED).fetch_one(pool).await.unwrap()
    })
    .await;
}

async fn all_are_confirmed(stage: &Stage, ids: &[MessageId], upstream: &Upstream) {
    for id in ids {
        stage.state(*id, "confirmed").await;
    }
    assert_eq!(upstream.asked().len(), 0, "every confirm was on its way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_is_under_way_is_waited_for() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let blocking = hold_confirms(&stage).await;
    let ids = confirmed_and_due(&stage, 20).await;
    blocking.rollback().await.unwrap();
    all_are_confirmed(&stage, &ids, &upstream).await;
    assert_eq!(stage.history(ids[0]).await, ["waiting", "confirmed"], "deferrals leave no trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_overtakes_nothing_when_a_replica_is_killed() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::empty(&[]).await;
    stage.upstream(&upstream);
    let doomed = start_doomed(&stage, std::time::Duration::from_secs(6));
    stage.is_consumed(SHARD).await;
    let blocking = hold_confirms(&stage).await;
    let ids = confirmed_and_due(&stage, 100).await;
    a_marker_is_on_its_way(&stage.pool).await;
    doomed.shutdown_background();
    blocking.rollback().await.unwrap();
    stage.start().await;
    all_are_confirmed(&stage, &ids, &upstream).await;
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_overtakes_nothing_when_a_replica_stops() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &[]).await;
    let blocking = hold_confirms(&stage).await;
    let ids = confirmed_and_due(&stage, 100).await;
    stage.start().await;
    let pool = stage.pool.clone();
    let (stopped, released) = tokio::join!(stage.stop_first(), async {
        // The first replica has confirms in hand, and behind them stands a marker.
        a_marker_is_on_its_way(&pool).await;
        blocking.rollback().await
    });
    released.unwrap();
    let () = stopped;
    all_are_confirmed(&stage, &ids, &upstream).await;
}

/// Publishes a marker through the shard, as a replica does.
async fn send_marker(stage: &Stage) {
    let number: i64 =
        sqlx::query_scalar("INSERT INTO confirm_marker (shard) VALUES (0) RETURNING number")
            .fetch_one(&stage.pool)
            .await
            .unwrap();
    let marker = json!({ "v": 1, "kind": "marker", "shard": 0, "number": number });
    let properties = json!({ "delivery_mode": 2, "type": "countersign.marker" });
    let body = marker.to_string();
    assert!(stage.vhost.publish("countersign.confirm", "0", properties, body.as_bytes()).await);
}

const RETURNED: &str = "SELECT count(*) FROM confirm_marker WHERE returned_at IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_is_noted_after_its_batch_is_committed() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let [first, second] = [(); 2].map(|()| MessageId::generate());
    let holds_first = hold_confirm(&stage, "logistics", first).await;
    let holds_second = hold_confirm(&stage, "logistics", second).await;
    stage.confirm("logistics", &[first]).await;
    is_blocked(&stage, "confirm").await;
    // While the first is being recorded, these two gather, and become one batch.
    stage.confirm("logistics", &[second]).await;
    send_marker(&stage).await;
    stage.are_held(SHARD, 3).await;
    holds_first.rollback().await.unwrap();
    stage.recorded("logistics", first).await;
    is_blocked(&stage, "confirm").await;
    assert_eq!(stage.count(RETURNED).await, 0, "the confirm before it is not recorded yet");
    holds_second.rollback().await.unwrap();
    stage.counts("markers that came back", RETURNED, 1).await;
    assert!(stage.has_confirmed("logistics", second).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_behind_an_entry_that_is_refused_is_noted_last() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let [first, second, culprit] = [(); 3].map(|()| MessageId::generate());
    let refuses = format!("ALTER TABLE confirmation ADD CHECK (message_id <> '{culprit}')");
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuses)).execute(&stage.pool).await.unwrap();
    let holds_first = hold_confirm(&stage, "logistics", first).await;
    stage.confirm("logistics", &[first]).await;
    is_blocked(&stage, "confirm").await;
    // While the first is being recorded, these three gather, and become one batch.
    stage.confirm("logistics", &[second]).await;
    stage.confirm("logistics", &[culprit]).await;
    send_marker(&stage).await;
    stage.are_held(SHARD, 4).await;
    holds_first.rollback().await.unwrap();
    stage.counts("markers that came back", RETURNED, 1).await;
    stage.recorded("logistics", second).await;
    stage.are_quarantined(1).await;
    let too_early = "SELECT count(*) FROM confirmation CROSS JOIN confirm_marker
                     WHERE confirmation.recorded_at > confirm_marker.returned_at";
    assert_eq!(stage.count(too_early).await, 0, "a confirm before it was recorded after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_through_one_of_two_shards_is_not_enough() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &["confirm-shards=2"]).await;
    // From here on a marker has come back through each shard.
    let first = MessageId::generate();
    stage.check(&[first], &["logistics"]).await;
    upstream.is_asked(first, 2).await;

    let id = MessageId::generate();
    let blocking = hold_confirm(&stage, "logistics", id).await;
    let confirms = [json!({ "id": id.to_string(), "outcome": "processed" })];
    let confirm = json!({ "v": 1, "consumer": "logistics", "confirms": confirms }).to_string();
    stage.publish("countersign.confirm", "1", confirm.as_bytes()).await;
    is_blocked(&stage, "confirm").await;
    stage.check(&[id], &["logistics"]).await;
    eventually("a marker is back through the other shard", SOON, async || {
        sqlx::query_scalar::<_, bool>(
            "SELECT EXISTS (
                 SELECT FROM overdue JOIN shard_watermark ON shard_watermark.sent_at > since
                 WHERE message_id = $1 AND shard = 0
             )",
        )
        .bind(id.uuid())
        .fetch_one(&stage.pool)
        .await
        .unwrap()
    })
    .await;
    is_judged_anew(&stage, id).await;
    assert_eq!(upstream.attempts(id), [] as [u32; 0], "its confirm is in the other shard");
    blocking.rollback().await.unwrap();
    stage.state(id, "confirmed").await;
    assert_eq!(upstream.attempts(id), [] as [u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_marker_proves_nothing() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let number: i64 =
        sqlx::query_scalar("INSERT INTO confirm_marker (shard) VALUES (7) RETURNING number")
            .fetch_one(&stage.pool)
            .await
            .unwrap();
    for forged in [
        json!({ "v": 1, "kind": "marker", "shard": 0, "number": 4_711 }),
        json!({ "v": 1, "kind": "marker", "shard": 0, "number": number }),
        json!({ "v": 1, "kind": "marker", "shard": 7, "number": number }),
        json!({ "v": 1, "kind": "marker", "shard": 0 }),
    ] {
        let properties = json!({ "delivery_mode": 2, "type": "countersign.marker" });
        let body = forged.to_string();
        assert!(stage.vhost.publish("countersign.confirm", "0", properties, body.as_bytes()).await);
    }
    let after = MessageId::generate();
    stage.confirm("logistics", &[after]).await;
    stage.recorded("logistics", after).await;
    assert_eq!(stage.count(RETURNED).await, 0);
    let unreadable = stage.vhost.peek("countersign.quarantine", 5).await;
    assert_eq!(unreadable.len(), 1, "{unreadable:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_does_not_come_back_is_followed_by_another() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    // As if somebody had purged the shard while it was in there.
    sqlx::query("INSERT INTO confirm_marker (shard) VALUES (0)")
        .execute(&stage.pool)
        .await
        .unwrap();
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    upstream.is_asked(id, 2).await;
    let returned: Vec<bool> = sqlx::query_scalar(
        "SELECT returned_at IS NOT NULL FROM confirm_marker WHERE sent_at < (SELECT missing_after FROM overdue) OR returned_at IS NOT NULL ORDER BY number",
    )
    .fetch_all(&stage.pool)
    .await
    .unwrap();
    assert_eq!(returned.first(), Some(&false), "{returned:?}");
    assert!(returned[1..].contains(&true), "{returned:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_while_nobody_needs_a_marker() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &["confirm-shards=2"]).await;
    let ids: Vec<MessageId> = (0..50).map(|_| MessageId::generate()).collect();
    stage.confirm("logistics", &ids).await;
    stage.recorded("logistics", ids[0]).await;
    stage.check(&ids, &["logistics"]).await;
    let id = MessageId::generate();
    assert_eq!(stage.count("SELECT count(*) FROM confirm_marker").await, 0);
    stage.check(&[id], &["logistics"]).await;
    upstream.is_asked(id, 2).await;
    let shards = "SELECT count(DISTINCT shard) FROM confirm_marker WHERE returned_at IS NOT NULL";
    assert_eq!(stage.count(shards).await, 2, "one has come back through each");
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_came_back_is_deleted_and_its_watermark_stays() {
    const WATERMARK: &str =
        "SELECT (extract(epoch FROM sent_at) * 1000000)::bigint FROM shard_watermark";
    const OLD: &str =
        "SELECT count(*) FROM confirm_marker WHERE returned_at < now() - interval '1 minute'";
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &[]).await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    upstream.is_asked(id, 2).await;
    let returned = "SELECT count(*) FROM confirm_marker WHERE returned_at IS NULL";
    stage.counts("markers that are missed", returned, 0).await;
    stage.stop_first().await;
    sqlx::query("UPDATE confirm_marker SET returned_at = now() - interval '2 minutes'")
        .execute(&stage.pool)
        .await
        .unwrap();
    assert!(stage.count(OLD).await >= 1);
    let before = stage.count(WATERMARK).await;
    stage.start().await;
    stage.counts("markers that came back long ago", OLD, 0).await;
    assert!(stage.count(WATERMARK).await >= before);
}

/// Consumers may confirm through it already.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_another_replica_has_just_added_is_waited_for() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let first = MessageId::generate();
    stage.check(&[first], &["logistics"]).await;
    upstream.is_asked(first, 2).await;

    // By a replica that has not come further yet: this one declares the shard.
    let sql = "INSERT INTO confirm_shard VALUES (1)";
    sqlx::query(sql).execute(&stage.pool).await.unwrap();
    stage.is_consumed("countersign.confirm.1").await;
    let id = MessageId::generate();
    let blocking = hold_confirm(&stage, "logistics", id).await;
    let confirms = [json!({ "id": id.to_string(), "outcome": "processed" })];
    let confirm = json!({ "v": 1, "consumer": "logistics", "confirms": confirms }).to_string();
    stage.publish("countersign.confirm", "1", confirm.as_bytes()).await;
    is_blocked(&stage, "confirm").await;
    stage.check(&[id], &["logistics"]).await;
    let deferred = "confirm may be with the broker";
    stage.row_when(id, "deferred", |row| row.reason.contains(deferred)).await;
    is_judged_anew(&stage, id).await;
    assert_eq!(upstream.attempts(id), [] as [u32; 0], "its confirm is in the new shard");
    blocking.rollback().await.unwrap();
    stage.state(id, "confirmed").await;
    assert_eq!(upstream.attempts(id), [] as [u32; 0]);
}

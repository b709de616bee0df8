//! Several replicas, and what a dead one leaves behind.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_callback::Service;
use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use tokio_util::sync::CancellationToken;

use crate::stage::Stage;
use crate::upstream::{Reply, Upstream, say, saying};

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_never_ask_for_the_same_attempt() {
    let slowly = Reply::After(Duration::from_millis(20), saying(Outcome::Republished));
    let upstream = Upstream::always(slowly).await;
    let settings = ["resend-delay=1s", "max-resends=2", "resend-rate=1000"];
    let mut stage = Stage::empty(&settings).await;
    stage.upstream(&upstream);
    let mut config = stage.config();
    // All are missing, and yet all are asked for.
    config.pacing.missing_share = 1.0;
    stage.start_with(config.clone()).await;
    stage.start_with(config).await;
    let ids: Vec<MessageId> = (0..500).map(|_| MessageId::generate()).collect();
    for ids in ids.chunks(50) {
        stage.check(ids, &["logistics"]).await;
    }
    stage.rows_are("parked", 500).await;
    let asked = upstream.asked();
    let distinct: BTreeSet<(String, u32)> =
        asked.iter().map(|asked| (asked.message_id.clone(), asked.attempt)).collect();
    assert_eq!((asked.len(), distinct.len()), (1_000, 1_000));
    stage.stop_first().await;
    stage.stop_first().await;
}

/// A service whose process can be killed: it has a runtime of its own.
pub(crate) fn start_doomed(stage: &Stage, lease: Duration) -> tokio::runtime::Runtime {
    let mut config = stage.config();
    config.timing.lease = lease;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.spawn(async move {
        let service = Service::start(config, CancellationToken::new()).await.unwrap();
        std::future::pending::<()>().await;
        drop(service);
    });
    runtime
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_replica_was_asking_for_is_taken_over_when_its_lease_ends() {
    const LEASE: Duration = Duration::from_secs(6);
    let upstream = Upstream::always(Reply::Hang).await;
    let mut stage = Stage::empty(&[]).await;
    stage.upstream(&upstream);
    let doomed = start_doomed(&stage, LEASE);
    stage.is_consumed("countersign.check.due").await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    upstream.is_asked(id, 2).await;
    doomed.shutdown_background();
    upstream.reply(|_| say(Outcome::Republished));
    stage.start().await;
    let again = |row: &crate::stage::Row| row.state == "waiting" && row.calls_not_made == 0;
    let row = stage.row_when(id, "sent again", |row| again(row) && row.resends > 1).await;
    assert_eq!(row.resends, 2, "the dead one's attempt counts: nobody knows what came of it");
    assert_eq!(upstream.attempts(id), [2, 3]);
    // What the dead one may have had sent again may be confirmed: a marker says that it is not.
    assert_eq!(stage.history(id).await, ["waiting", "asking", "waiting", "asking", "waiting"]);
    let taken_over_after: f64 = sqlx::query_scalar(
        "SELECT extract(epoch FROM max(at) - min(at))::float8 FROM overdue_event
         WHERE message_id = $1 AND to_state = 'asking'",
    )
    .bind(id.uuid())
    .fetch_one(&stage.pool)
    .await
    .unwrap();
    assert!(taken_over_after >= LEASE.as_secs_f64(), "{taken_over_after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_replica_had_in_hand_goes_to_the_next() {
    let mut stage = Stage::empty(&[]).await;
    let doomed = start_doomed(&stage, Duration::from_secs(6));
    let shard = "countersign.confirm.0";
    stage.is_consumed(shard).await;
    // Every confirm waits for this lock, so that the replica dies with confirms in hand.
    let mut blocking = stage.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE confirmation").execute(&mut *blocking).await.unwrap();
    let ids: Vec<MessageId> = (0..100).map(|_| MessageId::generate()).collect();
    for ids in ids.chunks(10) {
        stage.confirm("logistics", ids).await;
    }
    stage.are_held(shard, 10).await;
    doomed.shutdown_background();
    blocking.rollback().await.unwrap();
    stage.start().await;
    stage.confirms_are_recorded(100).await;
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_finishes_its_batch_and_its_calls() {
    let slowly = Reply::After(Duration::from_secs(1), saying(Outcome::Republished));
    let upstream = Upstream::always(slowly).await;
    let mut stage = Stage::new(&upstream, &[]).await;
    let asked = MessageId::generate();
    stage.check(&[asked], &["logistics"]).await;
    upstream.is_asked(asked, 2).await;
    let mut blocking = stage.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE confirmation IN SHARE MODE").execute(&mut *blocking).await.unwrap();
    let confirmed = MessageId::generate();
    stage.confirm("logistics", &[confirmed]).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event_type = 'Lock' AND datname = current_database()";
    stage.counts("confirms being recorded", waiting, 1).await;
    let (stopped, rolled_back) = tokio::join!(stage.stop_first(), blocking.rollback());
    rolled_back.unwrap();
    let () = stopped;
    assert!(stage.has_confirmed("logistics", confirmed).await);
    assert_eq!(stage.state(asked, "waiting").await.resends, 1);
    stage.all_is_acked_in_the_end().await;
}

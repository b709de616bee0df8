//! Several replicas, and what a dead one leaves behind.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_callback::{Service, Timing};
use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::SOON;
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
async fn an_answer_is_not_heard_while_another_replica_holds_the_lease() {
    let mut stage = Stage::empty(&[]).await;
    let upstream = Upstream::always(Reply::Hang).await;
    stage.upstream(&upstream);
    let mut config = stage.config();
    // As long as the test may take: the answer comes when it lets it.
    config.timing = Timing { call: SOON * 2, lease: SOON * 4 };
    stage.start_with(config).await;
    for (outcome, answers) in [(Outcome::NeverCommitted, 1), (Outcome::Withdrawn, 2)] {
        let let_go = CancellationToken::new();
        let reply = Reply::Once(let_go.clone(), saying(outcome));
        upstream.reply(move |_| reply.clone());
        let id = MessageId::generate();
        stage.check(&[id], &["logistics"]).await;
        upstream.is_asked(id, 2).await;
        // As if its lease had ended meanwhile and another replica had taken the row over.
        let taken_over = sqlx::query(
            "UPDATE overdue SET lease = gen_random_uuid(), due_at = now() + interval '1 hour'
             WHERE message_id = $1 AND state = 'asking'",
        )
        .bind(id.uuid())
        .execute(&stage.pool)
        .await
        .unwrap();
        assert_eq!(taken_over.rows_affected(), 1);
        let_go.cancel();
        // It is counted in the transaction that would write the row.
        let counted = "SELECT coalesce(sum(not_missing), 0)::bigint FROM upstream_tally";
        stage.counts("answers that are heard", counted, answers).await;
        assert_eq!(stage.history(id).await, ["waiting", "asking"], "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_under_a_lease_that_is_nearly_over() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::empty(&[]).await;
    stage.upstream(&upstream);
    let mut config = stage.config();
    // From its first moment on the lease ends before a call could.
    config.timing = Timing { call: Duration::from_secs(60), lease: Duration::from_secs(59) };
    stage.start_with(config).await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    let done = |row: &crate::stage::Row| row.state == "waiting" && row.reason.contains("orders");
    let row = stage.row_when(id, "asked for, or not", done).await;
    assert!(row.reason.contains("the lease was nearly over"), "{row:?}");
    assert_eq!((row.resends, row.calls_not_made), (0, 1));
    assert_eq!(upstream.attempts(id), [] as [u32; 0]);
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

/// A round that asks `orders` while it finds a canary of `alpha` confirmed needs the paces of both.
/// If it had that of `orders` when it waits for that of `alpha`, another replica's round could have
/// them the other way round, and Postgres would end one of the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_waits_for_one_upstream_holds_up_no_other() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    // From here on a marker has come back, and the upstream has a pace.
    let first = MessageId::generate();
    stage.check(&[first], &["logistics"]).await;
    upstream.is_asked(first, 2).await;
    stage.confirm("logistics", &[first]).await;
    stage.state(first, "confirmed").await;
    // A storm of `alpha` that does not end meanwhile.
    sqlx::raw_sql(
        "INSERT INTO upstream_tally (upstream, half_minute, looked_up, unconfirmed, missing)
         SELECT 'alpha', floor(extract(epoch FROM now()) / 30)::bigint + later, 1000, 1000, 1000
         FROM generate_series(0, 4) AS later;
         INSERT INTO upstream_pace (upstream, tokens, canaries, canaries_only)
         VALUES ('alpha', 1, 5, true)",
    )
    .execute(&stage.pool)
    .await
    .unwrap();
    let mut other_replica = stage.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM upstream_pace WHERE upstream = 'alpha' FOR UPDATE")
        .execute(&mut *other_replica)
        .await
        .unwrap();
    let (canary, missing) = (MessageId::generate(), MessageId::generate());
    sqlx::query("INSERT INTO confirmation (message_id, consumer) VALUES ($1, 'logistics')")
        .bind(canary.uuid())
        .execute(&stage.pool)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO overdue (message_id, upstream, consumers, state, cause, reason, resends,
                              due_at, missing_after)
         SELECT message_id, upstream, '{logistics}', 'waiting', 'not_confirmed', 'a test', resends,
                now(), now() - interval '1 hour'
         FROM (VALUES ($1, 'alpha', 1), ($2, 'orders', 0)) AS due (message_id, upstream, resends)",
    )
    .bind(canary.uuid())
    .bind(missing.uuid())
    .execute(&stage.pool)
    .await
    .unwrap();
    let rounds = "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
                  WHERE relation = 'overdue'::regclass AND mode = 'RowShareLock'
                    AND wait_event_type = 'Lock' AND datname = current_database()";
    stage.counts("rounds that wait for alpha", rounds, 1).await;
    sqlx::query("SELECT FROM upstream_pace WHERE upstream = 'orders' FOR UPDATE NOWAIT")
        .execute(&mut *other_replica)
        .await
        .expect("the round that waits has not locked the pace of orders");
    other_replica.rollback().await.unwrap();
    upstream.is_asked(missing, 2).await;
    stage.state(canary, "confirmed").await;
    let canaries = "SELECT canaries::bigint FROM upstream_pace WHERE upstream = 'alpha'";
    assert_eq!(stage.count(canaries).await, 6, "the confirmed canary lets one more follow");
}

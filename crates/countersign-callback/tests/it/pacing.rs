//! How fast upstreams are asked, and whether they are asked at all.

use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{SOON, eventually};
use uuid::Uuid;

use crate::stage::Stage;
use crate::upstream::{Upstream, say};

/// More than the calls that are under way when the first of them fail.
const MANY: usize = 500;

async fn many(stage: &Stage) -> Vec<MessageId> {
    let ids: Vec<MessageId> = (0..MANY).map(|_| MessageId::generate()).collect();
    stage.check(&ids, &["logistics"]).await;
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_is_left_alone_and_no_attempt_is_used() {
    let mut upstream = Upstream::down(say(Outcome::NeverCommitted));
    let stage = Stage::new(&upstream, &["resend-delay=200ms", "max-resends=1"]).await;
    many(&stage).await;
    eventually("it is tried with one call now and then", SOON, async || {
        let rounds = "SELECT count(DISTINCT at) FROM overdue_event WHERE to_state = 'asking'";
        stage.count(rounds).await >= 3
    })
    .await;
    let untouched = "SELECT count(*) FROM overdue WHERE calls_not_made = 0 AND resends = 0";
    let untouched = stage.count(untouched).await;
    assert!(untouched > 300, "most were not even tried: {untouched}");
    let told = stage.upstreams().await.remove(0);
    assert_eq!((told.upstream.as_str(), told.address), ("orders", upstream.url()));
    assert!(["open", "half_open"].contains(&told.breaker.as_str()), "{}", told.breaker);
    assert!(told.summary.starts_with("does not answer: "), "{}", told.summary);
    assert!(told.due > 300, "{}", told.due);
    upstream.listen().await;
    stage.rows_are("never_committed", 500).await;
    let asked = upstream.asked();
    assert!(asked.iter().all(|asked| asked.attempt == 2), "no attempt was used meanwhile");
    assert_eq!(asked.len(), MANY);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_alone_for_too_long_is_parked_all_the_same() {
    let upstream = Upstream::down(say(Outcome::Republished));
    let stage = Stage::new(&upstream, &["resend-delay=200ms", "park-after=3s"]).await;
    many(&stage).await;
    stage.rows_are("parked", 500).await;
    let untouched = "SELECT count(*) FROM overdue o WHERE cause = 'open_too_long' AND NOT EXISTS (
         SELECT FROM overdue_event e WHERE e.message_id = o.message_id AND to_state = 'asking')";
    assert!(stage.count(untouched).await > 300, "most were not even tried");
    let said = "SELECT count(*) FROM overdue WHERE reason LIKE '%; orders does not answer'";
    assert!(stage.count(said).await > 300, "and that is why: {:?}", story(&stage).await);
    assert_eq!(stage.count("SELECT count(*) FROM overdue WHERE resends > 0").await, 0);
}

/// Enough checks to tell that much is missing: this many, of which 300 are not confirmed.
const CHECKS: usize = 1_000;

/// 700 confirmed messages and 300 that are not, all of which come due. Returns the latter.
async fn much_is_missing(stage: &Stage) -> Vec<MessageId> {
    let ids: Vec<MessageId> = (0..CHECKS).map(|_| MessageId::generate()).collect();
    let (missing, confirmed) = ids.split_at(300);
    stage.confirm("logistics", confirmed).await;
    stage.confirms_are_recorded(700).await;
    stage.check(&ids, &["logistics"]).await;
    missing.to_vec()
}

/// What happened, for a failure's message.
async fn story(stage: &Stage) -> Vec<(String, String, i64)> {
    sqlx::query_as(
        "SELECT to_state, left(min(reason), 200), count(*) FROM overdue_event
         GROUP BY to_state, cause ORDER BY min(at)",
    )
    .fetch_all(&stage.pool)
    .await
    .unwrap()
}

const CANARIES_ONLY: &str = "SELECT count(*) FROM upstream_pace WHERE canaries_only";

/// Returns when the replicas have had every chance to ask for more.
async fn decided_anew(stage: &Stage) {
    let decided = "SELECT (extract(epoch FROM max(refilled_at)) * 1000)::bigint FROM upstream_pace";
    let before = stage.count(decided).await;
    eventually("it is decided anew", SOON, async || stage.count(decided).await > before + 1_000)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_together_keep_to_the_budget() {
    const RATE: f64 = 40.0;
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::empty(&["resend-rate=40"]).await;
    stage.upstream(&upstream);
    let mut config = stage.config();
    // Without canaries.
    config.pacing.missing_share = 1.0;
    stage.start_with(config.clone()).await;
    stage.start_with(config).await;
    let ids: Vec<MessageId> = (0..200).map(|_| MessageId::generate()).collect();
    stage.check(&ids, &["logistics"]).await;
    let sent = "SELECT count(*) FROM overdue WHERE cause = 'republished'";
    stage.counts("messages sent again", sent, 200).await;
    let asked_at: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM at)::float8 FROM overdue_event WHERE to_state = 'asking'
         ORDER BY at",
    )
    .fetch_all(&stage.pool)
    .await
    .unwrap();
    assert_eq!(asked_at.len(), 200);
    // A quarter of a second's worth is saved up. `at` is when the transaction began, which may have
    // waited for the other replica's.
    let at_once = RATE / 4.0 + RATE * 0.5;
    for (i, from) in asked_at.iter().enumerate() {
        for (count, to) in asked_at[i..].iter().enumerate().map(|(n, to)| (n + 1, to)) {
            let most = at_once + RATE * (to - from);
            assert!(count as f64 <= most, "{count} in {} s, at most {most}", to - from);
        }
    }
    stage.stop_first().await;
    stage.stop_first().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolled_back_transactions_use_up_no_budget_and_are_no_storm() {
    let upstream = Upstream::always(say(Outcome::NeverCommitted)).await;
    let stage = Stage::new(&upstream, &["resend-rate=1"]).await;
    much_is_missing(&stage).await;
    // The calls go one after the other, each for the token that the one before gave back. If a call
    // used its token up, 300 of them would take 300 s.
    let closed = "SELECT count(*) FROM overdue WHERE state = 'never_committed'";
    eventually("all 300 are closed", Duration::from_secs(120), async || {
        let count = stage.count(closed).await;
        if count == 300 { Ok(()) } else { Err(count) }
    })
    .await;
    assert_eq!(upstream.asked().len(), 300, "{:?}", story(&stage).await);
    assert_eq!(stage.count("SELECT count(*) FROM upstream_pace WHERE canaries > 0").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_much_is_missing_only_canaries_are_asked_for_until_they_are_confirmed() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &[]).await;
    let missing = much_is_missing(&stage).await;
    eventually("only canaries are asked for", SOON, async || {
        stage.count(CANARIES_ONLY).await == 1 && upstream.asked().len() == 5
    })
    .await;
    decided_anew(&stage).await;
    assert_eq!(upstream.asked().len(), 5, "they are not confirmed yet");
    let told = stage.upstreams().await.remove(0);
    assert_eq!((told.canaries_only, told.canaries, told.due), (true, 5, 295));
    assert_eq!((told.breaker.as_str(), told.budget_per_second), ("closed", 100.0));
    assert!(told.summary.starts_with("much is missing: 5 resends"), "{}", told.summary);
    stage.stop_first().await;
    stage.start().await;
    decided_anew(&stage).await;
    assert_eq!(upstream.asked().len(), 5, "a restart does not forget");

    let asked = |upstream: &Upstream| -> Vec<MessageId> {
        upstream.asked().iter().map(|asked| asked.message_id.parse().unwrap()).collect()
    };
    for (confirmed, then) in [(5, 15), (15, 35), (35, 75)] {
        stage.confirm("logistics", &asked(&upstream)[..confirmed]).await;
        eventually(&format!("{then} are asked for"), SOON, async || match upstream.asked().len() {
            count if count >= then => Ok(()),
            count => Err(count),
        })
        .await;
        assert_eq!(
            upstream.asked().len(),
            then,
            "each that is confirmed lets one more be asked for"
        );
    }
    eventually("all are asked for", SOON, async || {
        stage.confirm("logistics", &asked(&upstream)).await;
        upstream.asked().len() == missing.len()
    })
    .await;
    stage.confirm("logistics", &missing).await;
    stage.rows_are("confirmed", 300).await;
    stage.counts("upstreams of which only canaries are asked for", CANARIES_ONLY, 0).await;
    assert_eq!(upstream.asked().len(), missing.len(), "none was asked for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_that_waits_for_a_consumer_behind_holds_no_canarys_place() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::empty(&["backlog-grace=100ms"]).await;
    stage.upstream(&upstream);
    stage.start().await;
    // Five were sent again, and wait for a consumer that is behind. Twenty more are missing.
    let ids = |count| -> Vec<Uuid> { (0..count).map(|_| MessageId::generate().uuid()).collect() };
    sqlx::query(
        "WITH storm AS (
             INSERT INTO upstream_pace (upstream, tokens, canaries, canaries_only)
             VALUES ('orders', 25, 5, true)
         )
         INSERT INTO overdue (message_id, upstream, consumers, state, cause, reason, resends, due_at)
         SELECT id, 'orders', '{logistics}'::text[], 'waiting', 'consumer_behind', '', 1,
                now() + interval '1 hour'
         FROM UNNEST($1::uuid[]) AS id
         UNION ALL
         SELECT id, 'orders', '{logistics}', 'waiting', 'not_confirmed', '', 0, now()
         FROM UNNEST($2::uuid[]) AS id",
    )
    .bind(ids(5))
    .bind(ids(20))
    .execute(&stage.pool)
    .await
    .unwrap();
    eventually("five canaries are asked for", SOON, async || match upstream.asked().len() {
        5 => Ok(()),
        count => Err(count),
    })
    .await;
    decided_anew(&stage).await;
    assert_eq!(upstream.asked().len(), 5, "{:?}", story(&stage).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_in_which_nothing_is_ever_confirmed_ends_in_parked_rows() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let settings = ["resend-delay=500ms", "max-resends=2", "park-after=6s"];
    let stage = Stage::new(&upstream, &settings).await;
    much_is_missing(&stage).await;
    stage.rows_are("parked", 300).await;
    let asked = upstream.asked().len();
    // Five at a time, and after a half second's delay, less and less.
    assert!((5..100).contains(&asked), "{asked}: {:?}", story(&stage).await);
    let held_back = "SELECT count(*) FROM overdue WHERE reason LIKE '%only so many at a time%'";
    assert!(stage.count(held_back).await > 100, "{:?}", story(&stage).await);
    let canaries = stage.count("SELECT canaries::bigint FROM upstream_pace").await;
    assert_eq!(canaries, 1, "each that came due again halved them");
}

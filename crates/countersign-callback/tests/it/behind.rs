//! "Behind" ends: beside a quiet upstream, a queue that was left or is gone, and when a person asks.

use countersign_protocol::grpc::JobAction;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{Conduct, Proxy, SOON, eventually};
use serde_json::json;
use std::time::Duration;

use crate::acting::{TOKEN, create, request};
use crate::progress::{QUEUE, SENT_AT, confirms, due, due_at, due_of, is_deferred, patient};
use crate::stage::Stage;
use crate::upstream::{Upstream, say};

const COUNT_BEGUN: &str = "SELECT count(*) FROM queue_depth WHERE passing_base IS NOT NULL";

/// Logistics confirms a message of `upstream` that was published then, through the usual queue.
async fn reaches(stage: &Stage, upstream: &str, published_at_ms: i64) {
    let reached = json!({ "upstream": upstream, "published_at_ms": published_at_ms });
    confirms(stage, "logistics", QUEUE, reached).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_upstream_before_a_busy_queue_is_asked_for() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = patient(&upstream, false).await;
    stage.publish("", QUEUE, b"something that waits").await;
    reaches(&stage, "orders", SENT_AT - 1).await;
    let id = due(&stage).await;
    is_deferred(&stage, id, "consumer_behind").await;
    stage.counts("counts that have begun", COUNT_BEGUN, 1).await;
    // One message lay there; nothing newer of orders ever comes, and the queue is never empty.
    reaches(&stage, "billing", SENT_AT).await;
    is_deferred(&stage, id, "consumer_behind").await;
    assert_eq!(upstream.asked().len(), 0, "it may be the one that lay there");
    reaches(&stage, "billing", SENT_AT).await;
    upstream.is_asked(id, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_without_times_is_passed_by_count() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = patient(&upstream, false).await;
    stage.publish("", QUEUE, b"something that waits").await;
    let says_no_times = async || {
        confirms(&stage, "logistics", QUEUE, json!({ "upstream": "orders" })).await;
    };
    says_no_times().await;
    let id = due(&stage).await;
    is_deferred(&stage, id, "consumer_behind").await;
    stage.counts("counts that have begun", COUNT_BEGUN, 1).await;
    says_no_times().await;
    says_no_times().await;
    upstream.is_asked(id, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_asked_for_beside_a_renamed_queue_that_was_left() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = patient(&upstream, false).await;
    stage.vhost.declare_queue("old", json!({})).await;
    stage.publish("", "old", b"left behind").await;
    let before = json!({ "upstream": "orders", "published_at_ms": SENT_AT - 1 });
    confirms(&stage, "logistics", "old", before).await;
    reaches(&stage, "orders", SENT_AT + 5_001).await;
    let id = due(&stage).await;
    is_deferred(&stage, id, "consumer_behind").await;
    assert_eq!(upstream.asked().len(), 0, "the consumer may only be restarted");
    stage
        .counts(
            "queues without a consumer",
            "SELECT count(*) FROM queue_depth WHERE queue = 'old' AND left_since IS NOT NULL",
            1,
        )
        .await;
    let long_ago = "UPDATE queue_depth SET left_since = left_since - interval '10 min'";
    sqlx::query(long_ago).execute(&stage.pool).await.unwrap();
    upstream.is_asked(id, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_s_grant_beats_behind() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::empty(&["backlog-grace=60s", TOKEN]).await;
    stage.upstream(&upstream);
    stage.vhost.declare_queue(QUEUE, json!({})).await;
    stage.start().await;
    stage.publish("", QUEUE, b"something that waits").await;
    reaches(&stage, "orders", SENT_AT - 1).await;
    let id = due(&stage).await;
    is_deferred(&stage, id, "consumer_behind").await;
    assert_eq!(upstream.asked().len(), 0);
    create(&stage, request(JobAction::Resend, &[id])).await;
    upstream.is_asked(id, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_forgotten_and_no_other_reading_suffers() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::empty(&["backlog-grace=3s"]).await;
    stage.upstream(&upstream);
    stage.vhost.declare_queue(QUEUE, json!({})).await;
    stage.start().await;
    stage.publish("", QUEUE, b"something that waits").await;
    let before = json!({ "upstream": "orders", "published_at_ms": SENT_AT - 1 });
    confirms(&stage, "logistics", "gone", before.clone()).await;
    confirms(&stage, "logistics", QUEUE, before).await;
    let ids = [due(&stage).await, due(&stage).await];
    stage
        .counts(
            "queues that are known",
            "SELECT count(*) FROM (SELECT DISTINCT queue FROM consumer_progress) AS queues",
            1,
        )
        .await;
    let late = due(&stage).await;
    let grace_is_over = "SELECT count(*) FROM overdue
                         WHERE cause = 'consumer_behind' AND since < now() - interval '4 s'";
    stage.counts("rows that were deferred for long", grace_is_over, 3).await;
    for id in ids.into_iter().chain([late]) {
        is_deferred(&stage, id, "consumer_behind").await;
    }
    assert_eq!(upstream.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_begins_when_somebody_can_look() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::empty(&["backlog-grace=2s"]).await;
    stage.upstream(&upstream);
    stage.vhost.declare_queue(QUEUE, json!({})).await;
    stage.start().await;
    stage.publish("", QUEUE, b"something that waits").await;
    reaches(&stage, "orders", SENT_AT - 1).await;
    stage.stop_first().await;
    // It came due long ago, its confirm can not be on its way, and nobody has looked since.
    let id = countersign_protocol::MessageId::generate();
    sqlx::query(
        "INSERT INTO overdue (message_id, upstream, state, cause, consumers, reason, since,
                              missing_after, due_at, sent_at)
         SELECT $1, 'orders', 'waiting', 'not_confirmed', '{logistics}', 'due', before, before, now(),
                to_timestamp($2)
         FROM (SELECT now() - interval '1 min' AS before) AS came_due",
    )
    .bind(id.uuid())
    .bind(f64::from(i32::try_from(SENT_AT / 1_000).unwrap()))
    .execute(&stage.pool)
    .await
    .unwrap();
    stage.start().await;
    is_deferred(&stage, id, "consumer_behind").await;
    assert_eq!(upstream.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_queues_are_read_within_the_grace_through_a_slow_line() {
    const QUEUES: usize = 30;
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::empty(&["backlog-grace=6s"]).await;
    stage.upstream(&upstream);
    let url = stage.vhost.url().to_owned();
    let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()).unwrap();
    let proxy = Proxy::start(format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap();
    let slow = url.replace(&format!(":{port}/"), &format!(":{}/", proxy.address().port()));
    stage.set(&format!("amqp-url={slow}"));
    stage.start().await;
    let before = json!({ "upstream": "orders", "published_at_ms": SENT_AT - 1 });
    for number in 0..QUEUES {
        let queue = format!("q{number}");
        stage.vhost.declare_queue(&queue, json!({})).await;
        stage.publish("", &queue, b"something that waits").await;
        confirms(&stage, &format!("c{number}"), &queue, before.clone()).await;
    }
    proxy.conduct(Conduct::Forward { after: Duration::from_millis(100) });
    let mut ids = Vec::new();
    for number in 0..QUEUES {
        ids.push(due_at(&stage, "orders", &format!("c{number}"), SENT_AT).await);
    }
    for id in ids {
        is_deferred(&stage, id, "consumer_behind").await;
    }
    assert_eq!(upstream.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_from_the_future_is_not_believed() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = patient(&upstream, false).await;
    stage.publish("", QUEUE, b"something that waits").await;
    let year_5000 = 95_617_584_000_000_i64;
    reaches(&stage, "orders", year_5000).await;
    // Later than its own confirm by two minutes.
    let said = json!({
        "upstream": "orders", "published_at_ms": SENT_AT + 120_000, "at_ms": SENT_AT,
    });
    confirms(&stage, "logistics", QUEUE, said).await;
    let id = due_of(&stage, "orders", SENT_AT).await;
    is_deferred(&stage, id, "consumer_behind").await;
    assert_eq!(upstream.asked().len(), 0);
    reaches(&stage, "orders", SENT_AT + 5_001).await;
    upstream.is_asked(id, 2).await;
    let reached = "SELECT count(*) FROM consumer_progress WHERE confirmed_up_to < '2002-01-01'";
    eventually("what can be true is believed", SOON, async || stage.count(reached).await == 1)
        .await;
}

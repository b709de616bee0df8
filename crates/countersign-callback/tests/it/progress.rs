//! A consumer that is behind is waited for; one that is past a message, or done with its queue, is
//! not.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{SOON, Vhost, eventually};
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::upstream::{Upstream, say};

/// The upstream's clock is of another year.
pub(crate) const SENT_AT: i64 = 1_000_000_000_000;

pub(crate) const QUEUE: &str = "logistics.orders";

/// A service that leaves alone for long what nobody can tell about, and asks the management API if
/// it may.
pub(crate) async fn patient(upstream: &Upstream, asks_management: bool) -> Stage {
    let mut stage = Stage::empty(&["backlog-grace=60s"]).await;
    stage.upstream(upstream);
    if asks_management {
        let servers = countersign_testbed::Servers::shared().await.unwrap();
        stage.set(&format!("management-url={}", servers.broker().management_url()));
        stage.set(&format!("management-lag={}ms", Vhost::FIGURES_AGE.as_millis()));
    }
    stage.vhost.declare_queue(QUEUE, json!({})).await;
    stage.start().await;
    stage
}

/// Logistics confirms something that was published then.
async fn reaches(stage: &Stage, published_at_ms: i64) {
    reaches_of(stage, "orders", published_at_ms).await;
}

async fn reaches_of(stage: &Stage, upstream: &str, published_at_ms: i64) {
    let reached = json!({ "upstream": upstream, "published_at_ms": published_at_ms });
    confirms(stage, "logistics", QUEUE, reached).await;
}

/// A consumer confirms a message that came through a queue, and says this of it.
pub(crate) async fn confirms(stage: &Stage, consumer: &str, queue: &str, said: Value) {
    let id = MessageId::generate();
    let mut entry = json!({ "id": id.to_string(), "outcome": "processed", "queue": queue });
    entry.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
    stage.say(consumer, vec![entry]).await;
    stage.recorded(consumer, id).await;
}

pub(crate) async fn due(stage: &Stage) -> MessageId {
    due_of(stage, "orders", SENT_AT).await
}

pub(crate) async fn due_of(stage: &Stage, upstream: &str, armed_at_ms: i64) -> MessageId {
    due_at(stage, upstream, "logistics", armed_at_ms).await
}

pub(crate) async fn due_at(
    stage: &Stage,
    upstream: &str,
    consumer: &str,
    armed_at_ms: i64,
) -> MessageId {
    let id = MessageId::generate();
    let message = json!({ "id": id.to_string(), "consumers": [consumer] });
    let check = json!({
        "v": 1, "upstream": upstream, "armed_at_ms": armed_at_ms, "messages": [message],
    });
    stage.due(&check).await;
    id
}

pub(crate) async fn is_deferred(stage: &Stage, id: MessageId, cause: &str) {
    eventually(&format!("{id} waits: {cause}"), SOON, async || {
        let found: String = sqlx::query_scalar("SELECT cause FROM overdue WHERE message_id = $1")
            .bind(id.uuid())
            .fetch_optional(&stage.pool)
            .await
            .unwrap()
            .unwrap_or_default();
        if found == cause { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_asked_for_when_it_has_passed_the_message_and_not_before() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = patient(&upstream, false).await;
    stage.publish("", QUEUE, b"something that waits").await;
    reaches(&stage, SENT_AT - 1).await;
    let id = due(&stage).await;
    is_deferred(&stage, id, "consumer_behind").await;
    assert_eq!(upstream.asked().len(), 0);
    reaches(&stage, SENT_AT + 5_001).await;
    upstream.is_asked(id, 2).await;
    assert_eq!(stage.history(id).await[..2], ["waiting", "asking"], "deferrals leave no trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_queue_means_that_the_message_is_missing() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = patient(&upstream, true).await;
    reaches(&stage, SENT_AT - 1).await;
    let id = due(&stage).await;
    // Long before the patience is over.
    upstream.is_asked(id, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_holds_is_seen_only_by_the_management_api() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = patient(&upstream, true).await;
    stage.publish("", QUEUE, b"something in hand").await;
    let connection = countersign_amqp::Connection::start(
        stage.vhost.url().parse().unwrap(),
        "hanging",
        countersign_protocol::Topology::default(),
    );
    let subscription =
        countersign_amqp::Subscription { queue: QUEUE.to_owned(), prefetch: 1, priority: None };
    let mut hanging = countersign_amqp::Consumer::start(&connection, subscription);
    let held = hanging.next().await.expect("it is delivered");
    stage.are_held(QUEUE, 1).await;
    reaches(&stage, SENT_AT - 1).await;
    let id = due(&stage).await;
    is_deferred(&stage, id, "consumer_behind").await;
    assert_eq!(upstream.asked().len(), 0);
    hanging.acks().ack(held.tag);
    upstream.is_asked(id, 2).await;
    hanging.close().await;
    connection.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_never_seen_is_left_alone_for_a_while() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &["backlog-grace=3s"]).await;
    let id = due(&stage).await;
    is_deferred(&stage, id, "consumer_never_seen").await;
    assert_eq!(upstream.asked().len(), 0);
    upstream.is_asked(id, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_whose_clocks_differ_by_ten_minutes_share_a_consumer() {
    const BEHIND: i64 = 600_000;
    let orders = Upstream::always(say(Outcome::Republished)).await;
    let billing = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::empty(&["backlog-grace=60s"]).await;
    stage.set(&format!("upstreams=orders={},billing={}", orders.url(), billing.url()));
    stage.vhost.declare_queue(QUEUE, json!({})).await;
    stage.start().await;
    stage.publish("", QUEUE, b"something that waits").await;
    reaches_of(&stage, "orders", SENT_AT - 1).await;
    reaches_of(&stage, "billing", SENT_AT - BEHIND - 1).await;
    // At the same moment, whatever their clocks say.
    let of_orders = due_of(&stage, "orders", SENT_AT).await;
    let of_billing = due_of(&stage, "billing", SENT_AT - BEHIND).await;
    for id in [of_orders, of_billing] {
        is_deferred(&stage, id, "consumer_behind").await;
    }
    reaches_of(&stage, "orders", SENT_AT + 5_001).await;
    orders.is_asked(of_orders, 2).await;
    assert_eq!(billing.asked().len(), 0, "the other's clock says nothing about its messages");
    reaches_of(&stage, "billing", SENT_AT - BEHIND + 5_001).await;
    billing.is_asked(of_billing, 2).await;
    assert_eq!(orders.asked().len(), 1);
}

//! Messages whose handler fails.

use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_testbed::{Depth, Peeked, eventually};
use serde_json::json;

use crate::effects::Run;
use crate::world::{DEAD, EXCHANGE, KEY, QUEUE, SOON, World, settings};

#[tokio::test]
async fn a_failure_comes_back_after_growing_delays_and_the_last_one_is_dead_and_rejected() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new("retry").await;
    // Others are not held up.
    let other = world.publish_new("insert").await;
    world.confirmed(other, &["processed"]).await;

    let entries = world.confirmed(id, &["retrying", "retrying", "rejected"]).await;
    assert_eq!(entries[0].reason(), "told to retry");
    assert_eq!(entries[2].reason(), "failed 3 times, the last time: told to retry");
    for (entry, delay) in entries.iter().zip(&settings().retry_delays) {
        let at = entry.json["at_ms"].as_i64().unwrap();
        let until = entry.json["until_ms"].as_i64().unwrap();
        assert_eq!(until - at, i64::try_from(delay.as_millis()).unwrap());
    }

    let runs = consumer.effects.runs_of(id);
    assert_eq!(runs.iter().map(|run| run.failures).collect::<Vec<_>>(), [0, 1, 2]);
    for (pair, delay) in runs.windows(2).zip(&settings().retry_delays) {
        // The broker counts whole milliseconds.
        let waited = pair[1].at - pair[0].at + Duration::from_millis(1);
        assert!(waited >= *delay, "{waited:?} of {delay:?}");
    }
    assert_eq!(world.effects().await, [(other, 1)].into());
    world.drained(QUEUE).await;

    let dead = dead(&world).await;
    assert_eq!(dead.message_id(), Some(id.to_string().as_str()));
    assert_eq!(dead.body, b"retry");
    assert_eq!(dead.properties["app_id"], "orders");
    assert_eq!(dead.headers["countersign-reason"], entries[2].reason());
    assert_eq!(dead.headers["countersign-attempt"], 2);
    assert_eq!(dead.headers["countersign-published-at-ms"], 1_700_000_000_123_i64);
    assert_eq!(dead.headers["countersign-exchange"], EXCHANGE);
    assert_eq!(dead.headers["countersign-key"], KEY);
    assert_eq!(dead.headers.get("countersign-failures"), None, "put back, it starts anew");
    // The delivery count comes from looking into the queue.
    let foreign = |name: &&String| name.starts_with("x-") && *name != "x-delivery-count";
    let foreign: Vec<_> = dead.headers.keys().filter(foreign).collect();
    assert!(foreign.is_empty(), "{foreign:?} belong to the broker");
    consumer.stop().await;
}

#[tokio::test]
async fn a_message_that_failed_comes_back_as_it_was() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = MessageId::generate();
    let user = world.vhost.url().split(['/', ':']).nth(3).unwrap().to_owned();
    let properties = json!({
        "message_id": id.to_string(),
        "correlation_id": "request 7",
        "reply_to": "answers",
        "content_encoding": "gzip",
        "priority": 3,
        "expiration": "60000",
        "user_id": user,
        "headers": {
            "TraceId": "abc",
            "__TypeId__": "com.example.Order",
            "X-Request-Id": "17",
            "weights": [1, 2],
            "nested": { "Deep": true },
            "float": 1.5,
        },
    });
    assert!(world.vhost.publish(EXCHANGE, KEY, properties.clone(), b"retry").await);
    world.confirmed(id, &["retrying", "retrying", "rejected"]).await;

    let runs = consumer.effects.runs_of(id);
    assert_eq!(runs.len(), 3);
    for run in &runs {
        assert_eq!(run.properties, runs[0].properties, "every try sees the same");
    }
    assert_eq!(runs[0].properties[..3], ["request 7", "answers", "gzip"]);
    assert_eq!(runs[0].properties[3..], ["3", "60000", &user, "abc", "17"]);

    let dead = dead(&world).await;
    for name in ["correlation_id", "reply_to", "content_encoding", "priority"] {
        assert_eq!(dead.properties[name], properties[name], "{name}");
    }
    for (name, value) in properties["headers"].as_object().unwrap() {
        assert_eq!(dead.headers[name], *value, "{name}");
    }
    assert_eq!(dead.headers["countersign-expiration"], "60000");
    assert_eq!(dead.properties.get("expiration"), None, "it must not expire there");
    consumer.stop().await;
}

#[tokio::test]
async fn a_retry_that_goes_well_takes_effect_once_and_its_handler_sees_where_it_came_from() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new("retry once").await;
    world.confirmed(id, &["retrying", "processed"]).await;
    assert_eq!(world.effects().await, [(id, 1)].into());
    let runs = consumer.effects.runs_of(id);
    assert_eq!(runs.len(), 2);
    for Run { exchange, key, .. } in runs {
        assert_eq!((&*exchange, &*key), (EXCHANGE, KEY));
    }
    world.drained(QUEUE).await;
    assert_eq!(world.depth(DEAD).await, Depth::default());
    consumer.stop().await;
}

#[tokio::test]
async fn a_rejection_is_final_at_once() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new("reject").await;
    let entries = world.confirmed(id, &["rejected"]).await;
    assert_eq!(entries[0].reason(), "told to reject");
    assert_eq!(dead(&world).await.headers["countersign-reason"], "told to reject");
    assert_eq!(consumer.effects.runs_of(id).len(), 1);
    assert_eq!(world.effects().await, [].into());
    world.drained(QUEUE).await;
    consumer.stop().await;
}

#[tokio::test]
async fn a_body_that_is_not_the_json_it_should_be_is_rejected_with_the_parsers_reason() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new("json").await;
    let entries = world.confirmed(id, &["rejected"]).await;
    assert!(entries[0].reason().contains("expected value at line 1"), "{entries:?}");
    consumer.stop().await;
}

#[tokio::test]
async fn a_panic_counts_as_a_failure() {
    let world = World::new().await;
    let mut settings = settings();
    settings.retry_delays.truncate(1);
    let consumer = world.consumer_with(settings).await;
    let id = world.publish_new("panic").await;
    let entries = world.confirmed(id, &["retrying", "rejected"]).await;
    assert_eq!(entries[0].reason(), "the handler panicked: told to panic");
    assert_eq!(world.effects().await, [].into());
    let other = world.publish_new("insert").await;
    world.confirmed(other, &["processed"]).await;
    consumer.stop().await;
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_rolled_back_and_counts_as_a_failure() {
    let world = World::new().await;
    let mut settings = settings();
    settings.retry_delays.truncate(1);
    settings.handler_timeout = Some(Duration::from_millis(100));
    let consumer = world.consumer_with(settings).await;
    // One waits for nothing, the other in the middle of a statement.
    let hangs = world.publish_new("hang").await;
    let sleeps = world.publish_new("sleep").await;
    for id in [hangs, sleeps] {
        let entries = world.confirmed(id, &["retrying", "rejected"]).await;
        assert_eq!(entries[0].reason(), "the handler did not finish within 100 ms");
    }
    let other = world.publish_new("insert").await;
    world.confirmed(other, &["processed"]).await;
    assert_eq!(world.effects().await, [(other, 1)].into());
    consumer.stop().await;
}

#[tokio::test]
async fn a_copy_that_cannot_be_placed_keeps_its_message_in_the_queue() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    world.vhost.delete_queue(DEAD).await;
    let id = world.publish_new("reject").await;
    consumer.effects.entered(1).await;
    world.holds(QUEUE, Depth { ready: 0, unacked: 1 }).await;
    // Others are not held up.
    let other = world.publish_new("insert").await;
    world.confirmed(other, &["processed"]).await;
    assert!(world.confirms_of(id).await.is_empty());
    world.holds(QUEUE, Depth { ready: 0, unacked: 1 }).await;

    world.vhost.declare_queue(DEAD, serde_json::json!({})).await;
    world.confirmed(id, &["rejected"]).await;
    world.drained(QUEUE).await;
    assert_eq!(dead(&world).await.message_id(), Some(id.to_string().as_str()));
    consumer.stop().await;
}

#[tokio::test]
async fn a_message_of_several_megabytes_can_fail_like_any_other() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new(&"large".repeat(600_000)).await;
    world.confirmed(id, &["processed"]).await;
    let no_json = "x".repeat(3_000_000);
    world.vhost.publish(EXCHANGE, KEY, serde_json::json!({}), no_json.as_bytes()).await;
    assert_eq!(dead(&world).await.body.len(), no_json.len());
    world.drained(QUEUE).await;
    consumer.stop().await;
}

async fn dead(world: &World) -> Peeked {
    eventually("a message is in the dead queue", SOON, async || {
        world.vhost.peek(DEAD, 1).await.pop()
    })
    .await
}

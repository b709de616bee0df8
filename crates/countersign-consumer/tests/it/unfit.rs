//! Messages that nobody can process.

use std::time::Duration;

use countersign_protocol::{MessageId, UnixMillis};
use countersign_testbed::eventually;
use serde_json::{Value, json};

use crate::world::{DEAD, EXCHANGE, KEY, QUEUE, SOON, World, id_at, settings};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn a_message_without_a_readable_id_is_dead_and_nobody_is_told() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    for properties in [
        json!({}),
        json!({ "message_id": "17" }),
        json!({ "message_id": "6f1c8a52-5a4e-4c9f-9d2e-0b8f7f0f3a11" }),
    ] {
        assert!(world.vhost.publish(EXCHANGE, KEY, properties, b"insert").await);
    }
    let reasons = dead_reasons(&world, 3).await;
    assert!(reasons.iter().all(|reason| reason.starts_with("message_id: ")), "{reasons:?}");
    world.drained(QUEUE).await;

    let id = world.publish_new("insert").await;
    world.confirmed(id, &["processed"]).await;
    assert_eq!(world.confirms().await.len(), 1);
    assert_eq!(consumer.effects.runs().len(), 1);
    consumer.stop().await;
}

#[tokio::test]
async fn a_message_older_than_the_inbox_remembers_is_not_processed() {
    let world = World::new().await;
    let mut settings = settings();
    settings.retention = DAY;
    let consumer = world.consumer_with(settings).await;
    let now = MessageId::generate().time();
    let old = id_at(now.before(3 * DAY));
    let remembered = id_at(now.before(DAY / 2));
    world.publish(old, "insert").await;
    world.publish(remembered, "insert").await;
    let entries = world.confirmed(old, &["rejected"]).await;
    assert!(entries[0].reason().starts_with("too old to know"), "{entries:?}");
    world.confirmed(remembered, &["processed"]).await;
    assert_eq!(world.effects().await, [(remembered, 1)].into());
    assert!(dead_reasons(&world, 1).await[0].starts_with("too old to know"));
    world.drained(QUEUE).await;
    consumer.stop().await;
}

#[tokio::test]
async fn a_message_from_the_future_is_dead_and_rejected() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let now = MessageId::generate().time();
    let near = id_at(now.after(DAY));
    let far = id_at(now.after(7 * DAY));
    let farthest = id_at(UnixMillis::MAX_IN_ID);
    for id in [near, far, farthest] {
        world.publish(id, "insert").await;
    }
    world.confirmed(near, &["processed"]).await;
    for id in [far, farthest] {
        let entries = world.confirmed(id, &["rejected"]).await;
        assert!(entries[0].reason().starts_with("from the future"), "{entries:?}");
    }
    assert_eq!(world.effects().await, [(near, 1)].into());
    assert_eq!(dead_reasons(&world, 2).await.len(), 2);
    consumer.stop().await;
}

#[tokio::test]
async fn headers_of_the_wrong_kind_and_range_harm_nobody() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let hostile = [
        json!({ "countersign-attempt": -1, "countersign-failures": -5 }),
        json!({ "countersign-attempt": i64::MAX, "countersign-failures": i64::MIN }),
        json!({ "countersign-attempt": "two", "countersign-published-at-ms": i64::MAX }),
        json!({ "countersign-attempt": [1, 2], "countersign-failures": { "a": 1 }, "x-death": "odd" }),
    ];
    let mut ids = Vec::new();
    for headers in hostile {
        let id = MessageId::generate();
        let properties =
            json!({ "message_id": id.to_string(), "app_id": "NO NAME", "headers": headers });
        assert!(world.vhost.publish(EXCHANGE, KEY, properties, b"retry once").await);
        ids.push(id);
    }
    for id in ids {
        let entries = world.confirmed(id, &["retrying", "processed"]).await;
        assert_eq!(entries[0].json.get("upstream"), None::<&Value>);
    }
    // Somebody says that it has failed very often: then the next failure is the last.
    let id = MessageId::generate();
    let headers = json!({ "countersign-failures": i64::MAX });
    let properties = json!({ "message_id": id.to_string(), "headers": headers });
    assert!(world.vhost.publish(EXCHANGE, KEY, properties, b"retry").await);
    world.confirmed(id, &["rejected"]).await;
    consumer.stop().await;
}

async fn dead_reasons(world: &World, count: usize) -> Vec<String> {
    eventually(&format!("{count} messages are in the dead queue"), SOON, async || {
        let dead = world.vhost.peek(DEAD, 100).await;
        let reason = |message: &countersign_testbed::Peeked| {
            message.headers["countersign-reason"].as_str().unwrap().to_owned()
        };
        let reasons: Vec<_> = dead.iter().map(reason).collect();
        if reasons.len() == count { Ok(reasons) } else { Err(reasons) }
    })
    .await
}

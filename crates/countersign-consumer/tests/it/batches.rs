//! Several messages in one transaction.

use std::collections::BTreeMap;

use countersign_consumer::ConsumerSettings;
use countersign_protocol::MessageId;

use crate::world::{DEAD, QUEUE, World, named, settings};

/// One handler, so that everything published before it is free is one batch.
fn batching() -> ConsumerSettings {
    let mut settings = settings();
    settings.concurrency = 1;
    settings.max_batch = 10;
    settings.prefetch = Some(100);
    settings
}

/// Publishes messages while the handler is busy, so that they are taken together.
async fn published_together(
    world: &World,
    consumer: &crate::world::Consumer,
    bodies: &[&str],
) -> Vec<MessageId> {
    let ids: Vec<_> = bodies.iter().map(|_| MessageId::generate()).collect();
    published(
        world,
        consumer,
        &ids.iter().copied().zip(bodies.iter().copied()).collect::<Vec<_>>(),
    )
    .await;
    ids
}

async fn published(
    world: &World,
    consumer: &crate::world::Consumer,
    messages: &[(MessageId, &str)],
) {
    let before = consumer.effects.runs().len();
    let busy = world.publish_new("wait").await;
    consumer.effects.entered(before + 1).await;
    for (id, body) in messages {
        world.publish(*id, body).await;
    }
    let unacked = u64::try_from(messages.len()).unwrap() + 1;
    world.holds(QUEUE, countersign_testbed::Depth { ready: 0, unacked }).await;
    consumer.effects.release(1);
    world.confirmed(busy, &["processed"]).await;
}

#[tokio::test]
async fn what_is_there_is_taken_in_one_transaction_up_to_the_limit() {
    let world = World::new().await;
    let consumer = world.batch_consumer(batching()).await;
    let ids = published_together(&world, &consumer, &["insert"; 25]).await;
    world.all_processed(26).await;
    world.drained(QUEUE).await;
    // The one that kept the handler busy, and 10, 10, 5.
    assert_eq!(consumer.effects.sizes(), BTreeMap::from([(1, 1), (5, 1), (10, 2)]));
    let effects = world.effects().await;
    assert!(ids.iter().all(|id| effects[id] == 1), "{effects:?}");
    consumer.stop().await;
}

#[tokio::test]
async fn a_message_of_another_queue_costs_its_batch_nothing() {
    let world = World::new().await;
    let one = world.consumer_with(named("worker", "another")).await;
    let id = world.publish_new("insert").await;
    world.confirmed(id, &["processed"]).await;
    one.stop().await;

    let consumer = world.batch_consumer(batching()).await;
    let new = MessageId::generate();
    published(&world, &consumer, &[(new, "insert"), (id, "insert")]).await;
    world.confirmed(new, &["processed"]).await;
    world.confirmed(id, &["processed", "rejected"]).await;
    assert_eq!(world.effects().await[&id], 1);
    consumer.stop().await;
}

#[tokio::test]
async fn a_batch_that_fails_is_done_one_by_one_and_only_the_culprits_suffer() {
    let world = World::new().await;
    let mut settings = batching();
    settings.retry_delays.truncate(1);
    let consumer = world.batch_consumer(settings).await;
    let bodies = ["insert", "retry", "insert", "panic", "insert", "reject", "insert"];
    let ids = published_together(&world, &consumer, &bodies).await;
    for (id, body) in ids.iter().zip(bodies) {
        let outcomes: &[&str] = match body {
            "insert" => &["processed"],
            "reject" => &["rejected"],
            _ => &["retrying", "rejected"],
        };
        world.confirmed(*id, outcomes).await;
        let effects = world.effects().await;
        assert_eq!(effects.get(id).copied(), (body == "insert").then_some(1), "{body}");
    }
    world.drained(QUEUE).await;
    world.holds(DEAD, countersign_testbed::Depth { ready: 3, unacked: 0 }).await;
    // All seven were tried together, once.
    assert_eq!(consumer.effects.sizes()[&7], 1);
    consumer.stop().await;
}

#[tokio::test]
async fn a_batch_holds_only_what_has_not_been_processed_and_confirms_the_rest_again() {
    let world = World::new().await;
    let consumer = world.batch_consumer(batching()).await;
    let old = world.publish_new("insert").await;
    world.confirmed(old, &["processed"]).await;
    let [new, twice] = [MessageId::generate(), MessageId::generate()];
    let messages =
        [(old, "insert"), (twice, "insert"), (new, "insert"), (twice, "insert"), (old, "insert")];
    published(&world, &consumer, &messages).await;
    world.confirmed(old, &["processed"; 3]).await;
    world.confirmed(twice, &["processed"; 2]).await;
    world.confirmed(new, &["processed"]).await;
    let last = consumer.effects.runs().pop().unwrap();
    assert_eq!(last.ids, [twice, new]);
    let effects = world.effects().await;
    assert_eq!([effects[&old], effects[&new], effects[&twice]], [1, 1, 1]);
    let duplicates = world.duplicates().await;
    assert_eq!([duplicates[&old], duplicates[&new], duplicates[&twice]], [2, 0, 1]);
    world.drained(QUEUE).await;

    // Nothing new at all: the handler is not even asked.
    let runs = consumer.effects.runs().len();
    published(&world, &consumer, &[(old, "insert"), (new, "insert"), (twice, "insert")]).await;
    world.confirmed(new, &["processed"; 2]).await;
    world.drained(QUEUE).await;
    assert_eq!(consumer.effects.runs().len(), runs + 1);
    let duplicates = world.duplicates().await;
    assert_eq!([duplicates[&old], duplicates[&new], duplicates[&twice]], [3, 1, 2]);
    consumer.stop().await;
}

#[tokio::test]
async fn batches_of_several_replicas_do_not_deadlock_over_the_same_messages() {
    let world = World::new().await;
    let mut settings = settings();
    settings.concurrency = 4;
    let (one, two) = tokio::join!(
        world.batch_consumer(settings.clone()),
        world.batch_consumer(settings.clone())
    );
    let mut ids: Vec<_> = (0..200).map(|_| MessageId::generate()).collect();
    for _ in 0..3 {
        fastrand::shuffle(&mut ids);
        futures_util::future::join_all(ids.iter().map(|id| world.publish(*id, "insert"))).await;
    }
    world.all_processed(ids.len()).await;
    world.drained(QUEUE).await;
    assert_eq!(world.effects().await, ids.iter().map(|id| (*id, 1)).collect());
    // Each came three times, and none was delivered again by the broker.
    assert_eq!(world.duplicates().await, ids.iter().map(|id| (*id, 2)).collect());
    let confirms = world.confirms().await;
    assert!(confirms.iter().all(|entry| entry.outcome() == "processed"));
    one.stop().await;
    two.stop().await;
}

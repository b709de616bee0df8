//! The end of a consumer: nothing is left half done.

use std::time::Duration;

use countersign_testbed::{Depth, eventually};

use crate::effects::NEVER;
use crate::world::{QUEUE, SOON, World, settings};

#[tokio::test]
async fn handlers_that_run_finish_and_no_more_are_begun() {
    let world = World::new().await;
    let mut settings = settings();
    settings.concurrency = 2;
    settings.drain = NEVER;
    let consumer = world.consumer_with(settings).await;
    world.publish_many(6, "wait").await;
    consumer.effects.entered(2).await;
    consumer.shut_down();
    let effects = consumer.effects.clone();
    effects.release(6);
    consumer.stop().await;

    assert_eq!(effects.runs().len(), 2);
    let begun: Vec<_> = effects.runs().iter().map(|run| run.ids[0]).collect();
    assert_eq!(world.effects().await, begun.iter().map(|id| (*id, 1)).collect());
    for id in begun {
        world.confirmed(id, &["processed"]).await;
    }
    world.holds(QUEUE, Depth { ready: 4, unacked: 0 }).await;
    assert_eq!(world.confirms().await.len(), 2);
}

#[tokio::test]
async fn a_handler_that_does_not_finish_in_time_leaves_its_message_and_no_effect() {
    let world = World::new().await;
    let mut settings = settings();
    settings.drain = Duration::from_millis(400);
    let consumer = world.consumer_with(settings.clone()).await;
    let hangs = world.publish_new("hang").await;
    let goes = world.publish_new("insert").await;
    consumer.effects.entered(2).await;
    world.confirmed(goes, &["processed"]).await;
    consumer.stop().await;
    world.holds(QUEUE, Depth { ready: 1, unacked: 0 }).await;
    assert_eq!(world.effects().await, [(goes, 1)].into());
    assert!(world.confirms_of(hangs).await.is_empty());

    // The claim is free: the next one can have it.
    let next = world.consumer_with(settings).await;
    next.effects.entered(1).await;
    assert_eq!(next.effects.runs()[0].ids, [hangs]);
}

#[tokio::test]
async fn confirms_and_acks_leave_before_the_end() {
    let world = World::new().await;
    let mut settings = settings();
    settings.drain = NEVER;
    let consumer = world.consumer_with(settings).await;
    world.refuse_confirms().await;
    world.publish_many(5, "insert").await;
    world.holds(QUEUE, Depth { ready: 0, unacked: 5 }).await;
    consumer.effects.entered(5).await;
    consumer.shut_down();
    world.take_confirms_again().await;
    consumer.stop().await;
    world.drained(QUEUE).await;
    world.all_processed(5).await;
}

#[tokio::test]
async fn confirms_that_cannot_leave_in_time_are_made_up_for_by_the_next_consumer() {
    let world = World::new().await;
    let mut settings = settings();
    settings.drain = Duration::from_millis(400);
    let consumer = world.consumer_with(settings.clone()).await;
    world.refuse_confirms().await;
    let ids = world.publish_many(5, "insert").await;
    consumer.effects.entered(5).await;
    eventually("all are committed", SOON, async || world.effects().await.len() == 5).await;
    consumer.stop().await;
    world.holds(QUEUE, Depth { ready: 5, unacked: 0 }).await;
    assert!(world.confirms().await.is_empty());

    world.take_confirms_again().await;
    let next = world.consumer_with(settings).await;
    world.all_processed(5).await;
    world.drained(QUEUE).await;
    assert_eq!(next.effects.runs().len(), 0);
    assert_eq!(world.effects().await, ids.into_iter().map(|id| (id, 1)).collect());
    next.stop().await;
}

#[tokio::test]
async fn a_consumer_that_is_dropped_stops_at_once_and_leaves_its_messages() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    world.publish_many(3, "wait").await;
    consumer.effects.entered(3).await;
    drop(consumer);
    world.holds(QUEUE, Depth { ready: 3, unacked: 0 }).await;
    assert_eq!(world.vhost.consumers(QUEUE).await, 0);
    assert!(world.effects().await.is_empty());
}

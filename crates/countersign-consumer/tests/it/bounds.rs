//! How much is done and held at once.

use countersign_testbed::Depth;

use crate::world::{QUEUE, World, settings};

#[tokio::test]
async fn no_more_handlers_run_at_once_than_may() {
    let world = World::new().await;
    let mut settings = settings();
    settings.concurrency = 3;
    let consumer = world.consumer_with(settings).await;
    world.publish_many(12, "wait").await;
    consumer.effects.entered(3).await;
    world.holds(QUEUE, Depth { ready: 0, unacked: 12 }).await;
    consumer.effects.release(12);
    world.all_processed(12).await;
    assert_eq!(consumer.effects.most_running(), 3);
    consumer.stop().await;
}

#[tokio::test]
async fn the_next_handler_runs_while_confirms_are_still_on_their_way() {
    let world = World::new().await;
    let mut settings = settings();
    settings.concurrency = 1;
    let consumer = world.consumer_with(settings).await;
    world.refuse_confirms().await;
    world.publish_many(8, "insert").await;
    consumer.effects.entered(8).await;
    world.holds(QUEUE, Depth { ready: 0, unacked: 8 }).await;
    assert_eq!(world.effects().await.len(), 8);
    world.take_confirms_again().await;
    world.all_processed(8).await;
    world.drained(QUEUE).await;
    consumer.stop().await;
}

#[tokio::test]
async fn what_is_held_from_before_a_reconnect_counts() {
    let world = World::new().await;
    let mut settings = settings();
    settings.concurrency = 2;
    settings.prefetch = Some(4);
    let consumer = world.consumer_with(settings).await;
    world.refuse_confirms().await;
    world.publish_many(10, "insert").await;
    consumer.effects.entered(4).await;
    world.holds(QUEUE, Depth { ready: 6, unacked: 4 }).await;
    for _ in 0..3 {
        world.cut("consumes").await;
    }
    assert_eq!(consumer.effects.runs().len(), 4);
    world.take_confirms_again().await;
    world.all_processed(10).await;
    world.drained(QUEUE).await;
    assert_eq!(consumer.effects.runs().len(), 10);
    consumer.stop().await;
}

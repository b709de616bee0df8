//! A broker that takes no confirms because of an alarm.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_consumer::ConsumerSettings;
use countersign_testbed::{Broker, BrokerSettings, Depth, Vhost};

use crate::world::{QUEUE, World, pool, settings};

/// More messages than are held at once: without acks, most of them would never arrive.
const MESSAGES: usize = 50;

fn impatient() -> ConsumerSettings {
    let mut settings = settings();
    settings.concurrency = 5;
    settings.prefetch = Some(10);
    settings.blocked_grace = Duration::from_millis(500);
    settings
}

/// A world under alarm, its queue drained in spite of it.
async fn drained_under_alarm(
    settings: ConsumerSettings,
) -> (Broker, World, crate::world::Consumer) {
    let broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let vhost = Vhost::create(broker.address()).await.unwrap();
    let database = countersign_testbed::database().await;
    let pool = pool(database.url());
    let world = World::on(vhost, pool, Some(database)).await;
    let consumer = world.consumer_with(settings).await;
    let ids = world.publish_many(MESSAGES, "wait").await;
    consumer.effects.entered(5).await;
    // Not one more arrives before an ack.
    world.holds(QUEUE, Depth { ready: 40, unacked: 10 }).await;
    broker.memory_alarm(true).await.unwrap();
    consumer.effects.release(MESSAGES);
    world.drained(QUEUE).await;
    assert_eq!(world.effects().await, ids.into_iter().map(|id| (id, 1)).collect());
    (broker, world, consumer)
}

#[tokio::test]
async fn under_an_alarm_the_queue_drains_and_the_confirms_follow_when_it_is_over() {
    let (broker, world, consumer) = drained_under_alarm(impatient()).await;
    assert_eq!(world.confirms().await.len(), 0, "the broker took confirms under an alarm");
    broker.memory_alarm(false).await.unwrap();
    world.all_processed(MESSAGES).await;
    consumer.stop().await;
}

#[tokio::test]
async fn under_an_alarm_no_more_confirms_are_kept_than_may_wait() {
    let mut settings = impatient();
    settings.max_unconfirmed = 10;
    let (broker, world, consumer) = drained_under_alarm(settings).await;
    broker.memory_alarm(false).await.unwrap();
    world.all_processed(10).await;
    // The last one comes after everything that was kept.
    let last = world.publish_new("insert").await;
    world.confirmed(last, &["processed"]).await;
    let confirms = world.confirms().await;
    let ids: BTreeSet<_> = confirms.iter().map(crate::world::Entry::id).collect();
    assert_eq!(ids.len(), 11);
    consumer.stop().await;
}

//! Servers that go away, and come back.

use std::time::Duration;

use countersign_testbed::{
    Broker, BrokerSettings, Depth, Postgres, PostgresSettings, Vhost, eventually,
};
use tokio::time::Instant;

use crate::effects::NEVER;
use crate::world::{CONFIRMS, CONSUMER, DEAD, QUEUE, SOON, World, pool, settings};

/// A world whose database can be killed.
async fn mortal_world() -> (Postgres, World) {
    let postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let pool = pool(&postgres.address().url("postgres"));
    let world = World::on(countersign_testbed::vhost().await, pool, None).await;
    (postgres, world)
}

#[tokio::test]
async fn a_database_that_is_killed_and_comes_back_loses_nothing_and_doubles_nothing() {
    let (mut postgres, world) = mortal_world().await;
    let consumer = world.consumer().await;
    let mut ids = world.publish_many(40, "insert").await;
    world.all_processed(40).await;
    // Some are in their handlers when it dies, some come while it is away.
    let waiting = world.publish_many(15, "wait").await;
    consumer.effects.entered(55).await;
    postgres.kill().await.unwrap();
    consumer.effects.release(1_000);
    ids.extend(waiting);
    ids.extend(world.publish_many(15, "insert").await);
    world.holds(QUEUE, Depth { ready: 0, unacked: 30 }).await;
    postgres.restart().await.unwrap();

    world.all_processed(70).await;
    world.drained(QUEUE).await;
    assert_eq!(world.effects().await, ids.into_iter().map(|id| (id, 1)).collect());
    // No attempt was used.
    let confirms = world.confirms().await;
    assert!(confirms.iter().all(|entry| entry.outcome() == "processed"), "{confirms:?}");
    assert!(consumer.effects.runs().iter().all(|run| run.failures == 0));
    assert_eq!(world.depth(DEAD).await, Depth::default());
    consumer.stop().await;
}

#[tokio::test]
async fn a_batch_whose_database_is_killed_takes_effect_once_when_it_is_back() {
    let (mut postgres, world) = mortal_world().await;
    let mut settings = settings();
    settings.concurrency = 1;
    let consumer = world.batch_consumer(settings).await;
    let busy = world.publish_new("wait").await;
    consumer.effects.entered(1).await;
    let mut ids = world.publish_many(8, "wait").await;
    world.holds(QUEUE, Depth { ready: 0, unacked: 9 }).await;
    consumer.effects.release(1);
    consumer.effects.entered(2).await;
    postgres.kill().await.unwrap();
    consumer.effects.release(1_000);
    postgres.restart().await.unwrap();
    world.all_processed(9).await;
    ids.push(busy);
    assert_eq!(world.effects().await, ids.into_iter().map(|id| (id, 1)).collect());
    let confirms = world.confirms().await;
    assert!(confirms.iter().all(|entry| entry.outcome() == "processed"), "{confirms:?}");
    consumer.stop().await;
}

#[tokio::test]
async fn a_connection_that_dies_under_its_handler_uses_no_attempt() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new("cut").await;
    world.confirmed(id, &["processed"]).await;
    assert_eq!(consumer.effects.runs_of(id).len(), 2);
    assert_eq!(world.effects().await, [(id, 1)].into());
    consumer.stop().await;
}

#[tokio::test]
async fn a_consumer_can_start_before_its_database() {
    let mut postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let world_pool = pool(&postgres.address().url("postgres"));
    let world = World::on(countersign_testbed::vhost().await, world_pool, None).await;
    postgres.kill().await.unwrap();
    let (consumer, restarted) = tokio::join!(world.consumer(), postgres.restart());
    restarted.unwrap();
    let id = world.publish_new("insert").await;
    world.confirmed(id, &["processed"]).await;
    consumer.stop().await;
}

#[tokio::test]
async fn a_consumer_that_stops_while_its_database_is_away_does_not_wait_for_it() {
    let (mut postgres, world) = mortal_world().await;
    let mut settings = settings();
    settings.drain = NEVER;
    let consumer = world.consumer_with(settings.clone()).await;
    postgres.kill().await.unwrap();
    let id = world.publish_new("insert").await;
    world.holds(QUEUE, Depth { ready: 0, unacked: 1 }).await;
    consumer.stop().await;
    world.holds(QUEUE, Depth { ready: 1, unacked: 0 }).await;

    postgres.restart().await.unwrap();
    let next = world.consumer_with(settings).await;
    world.confirmed(id, &["processed"]).await;
    assert_eq!(world.effects().await, [(id, 1)].into());
    next.stop().await;
}

#[tokio::test]
async fn a_connection_cut_between_commit_and_ack_brings_the_message_again_but_no_second_effect() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    world.refuse_confirms().await;
    let id = world.publish_new("insert").await;
    eventually("it is committed", SOON, async || world.effects().await.len() == 1).await;
    world.holds(QUEUE, Depth { ready: 0, unacked: 1 }).await;
    world.cut("consumes").await;
    world.holds(QUEUE, Depth { ready: 0, unacked: 1 }).await;
    world.take_confirms_again().await;
    // Once for the first delivery, whose ack went nowhere, and once for the second.
    world.confirmed(id, &["processed", "processed"]).await;
    world.drained(QUEUE).await;
    assert_eq!(consumer.effects.runs_of(id).len(), 1);
    assert_eq!(world.effects().await, [(id, 1)].into());
    consumer.stop().await;
}

#[tokio::test]
async fn connections_that_are_cut_again_and_again_lose_nothing_and_double_nothing() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let mut ids = Vec::new();
    for part in ["consumes", "confirms", CONSUMER, "consumes", CONSUMER] {
        let (published, ()) = tokio::join!(world.publish_many(80, "insert"), world.cut(part));
        ids.extend(published);
    }
    world.all_processed(ids.len()).await;
    world.drained(QUEUE).await;
    assert_eq!(world.effects().await, ids.into_iter().map(|id| (id, 1)).collect());
    consumer.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing_and_doubles_nothing() {
    let mut broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let vhost = Vhost::create(broker.address()).await.unwrap();
    let database = countersign_testbed::database().await;
    let database_pool = pool(database.url());
    let world = World::on(vhost, database_pool, Some(database)).await;
    let mut settings = settings();
    settings.concurrency = 10;
    let consumer = world.consumer_with(settings).await;
    let ids = world.publish_many(30, "wait").await;
    consumer.effects.entered(10).await;
    // RabbitMQ 3.10.8 forgets its replica of a queue that was declared moments before a SIGKILL: that
    // queue then answers nothing any more, and is not what this is about.
    broker.ctl(&["eval", "[dets:sync(Table) || Table <- dets:all()]."]).await.unwrap();
    broker.kill();
    // Those that run commit while there is nobody to confirm to.
    consumer.effects.release(1_000);
    eventually("what ran is committed", SOON, async || world.effects().await.len() >= 10).await;
    broker.restart().await.unwrap();
    // A look into a queue that is not up yet would never be answered.
    eventually("a confirm came after the restart", SOON, async || {
        world.depth(CONFIRMS).await.ready > 0
    })
    .await;
    world.all_processed(30).await;
    world.drained(QUEUE).await;
    assert_eq!(world.effects().await, ids.into_iter().map(|id| (id, 1)).collect());
    assert_eq!(consumer.effects.runs().len(), 30);
    let started = Instant::now();
    consumer.stop().await;
    assert!(started.elapsed() < Duration::from_secs(7), "the drain took its whole time");
}

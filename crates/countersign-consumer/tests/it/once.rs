//! Takes effect once, and says so.

use countersign_consumer::Consumer as Setup;
use countersign_protocol::MessageId;
use countersign_testbed::Depth;
use tokio_util::sync::CancellationToken;

use crate::effects::Effects;
use crate::world::{CONFIRMS, CONSUMER, QUEUE, World, named, settings};

#[tokio::test]
async fn a_message_takes_effect_is_confirmed_and_acked() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new("insert").await;
    let entries = world.confirmed(id, &["processed"]).await;
    assert_eq!(world.effects().await, [(id, 1)].into());
    world.drained(QUEUE).await;

    let entry = &entries[0];
    assert_eq!(entry.consumer, CONSUMER);
    assert_eq!(entry.json["upstream"], "orders");
    assert_eq!(entry.json["queue"], QUEUE);
    assert_eq!(entry.json["attempt"], 2);
    assert_eq!(entry.json["published_at_ms"], 1_700_000_000_123_i64);
    assert!(entry.json["at_ms"].as_i64().unwrap() >= id.time().ms());
    consumer.stop().await;
}

#[tokio::test]
async fn a_duplicate_runs_no_handler_and_confirms_again() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new("insert").await;
    world.confirmed(id, &["processed"]).await;
    for confirms in 2..=4 {
        world.publish(id, "insert").await;
        world.confirmed(id, &vec!["processed"; confirms]).await;
        // Counted before it is confirmed.
        let duplicates = i32::try_from(confirms - 1).unwrap();
        assert_eq!(world.duplicates().await, [(id, duplicates)].into());
    }
    assert_eq!(consumer.effects.runs_of(id).len(), 1);
    assert_eq!(world.effects().await, [(id, 1)].into());
    world.drained(QUEUE).await;
    consumer.stop().await;
}

#[tokio::test]
async fn a_duplicate_that_comes_while_the_first_one_runs_takes_no_effect() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new("wait").await;
    consumer.effects.entered(1).await;
    // It waits for the first one's key, so it is not entered.
    world.publish(id, "wait").await;
    let other = world.publish_new("insert").await;
    world.confirmed(other, &["processed"]).await;
    assert_eq!(consumer.effects.runs_of(id).len(), 1);

    consumer.effects.release(1);
    world.confirmed(id, &["processed", "processed"]).await;
    assert_eq!(consumer.effects.runs_of(id).len(), 1);
    assert_eq!(world.effects().await, [(id, 1), (other, 1)].into());
    consumer.stop().await;
}

#[tokio::test]
async fn a_duplicate_takes_the_place_of_a_first_one_that_rolls_back() {
    let world = World::new().await;
    let mut settings = settings();
    settings.handler_timeout = Some(std::time::Duration::from_millis(500));
    settings.retry_delays = Vec::new();
    let consumer = world.consumer_with(settings).await;
    let id = world.publish_new("hang").await;
    consumer.effects.entered(1).await;
    world.publish(id, "insert").await;
    world.holds("work.dead", Depth { ready: 1, unacked: 0 }).await;
    world.drained(QUEUE).await;
    assert_eq!(world.effects().await, [(id, 1)].into());
    let outcomes = world.confirms_of(id).await;
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    consumer.stop().await;
}

#[tokio::test]
async fn consumers_that_share_a_database_do_not_share_their_claims() {
    let world = World::new().await;
    // Started at once: their migrations and partitions meet.
    let (one, two) = tokio::join!(
        world.consumer_with(named("one", "queue.one")),
        world.consumer_with(named("two", "queue.two")),
    );
    let id = world.publish_new("insert").await;
    let entries = world.confirmed(id, &["processed", "processed"]).await;
    let mut consumers: Vec<_> = entries.iter().map(|entry| &*entry.consumer).collect();
    consumers.sort_unstable();
    assert_eq!(consumers, ["one", "two"]);
    assert_eq!(world.effects().await, [(id, 2)].into());
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_second_queue_under_one_name_is_refused_in_one_process() {
    let world = World::new().await;
    let one = world.consumer_with(named("one", "queue.a")).await;
    let address = world.vhost.url().parse().unwrap();
    let two = Setup::new(address, named("one", "queue.b")).with_inbox(world.pool.clone());
    let two = two.handler(Effects::default()).start(CancellationToken::new());
    let Err(refused) = two.await else { panic!("a second queue under one name is consumed") };
    assert!(refused.to_string().contains("queue.a"), "{refused}");
    one.stop().await;
    world.consumer_with(named("one", "queue.b")).await.stop().await;
}

#[tokio::test]
async fn a_second_queues_message_under_one_name_is_dead_there_and_not_taken_for_processed() {
    let world = World::new().await;
    // One after the other, as in two processes: both queues stay bound.
    let one = world.consumer_with(named("one", "queue.a")).await;
    let id = world.publish_new("insert").await;
    world.confirmed(id, &["processed"]).await;
    one.stop().await;

    let two = world.consumer_with(named("one", "queue.b")).await;
    world.publish(id, "insert").await;
    let entries = world.confirmed(id, &["processed", "rejected"]).await;
    assert!(entries[1].reason().contains("from queue \"queue.a\""), "{entries:?}");
    world.holds("queue.b.dead", Depth { ready: 1, unacked: 0 }).await;
    assert_eq!(world.effects().await, [(id, 1)].into());
    assert_eq!(world.duplicates().await, [(id, 0)].into());

    let other = world.publish_new("insert").await;
    world.confirmed(other, &["processed"]).await;
    two.stop().await;
}

#[tokio::test]
async fn replicas_share_the_work_and_no_message_takes_effect_at_both() {
    let world = World::new().await;
    let (one, two) = tokio::join!(world.consumer(), world.consumer());
    let ids = world.publish_many(60, "insert").await;
    // Every message a second time.
    for id in &ids {
        world.publish(*id, "insert").await;
    }
    world.all_processed(ids.len()).await;
    world.drained(QUEUE).await;
    let expected = ids.iter().map(|id| (*id, 1)).collect();
    assert_eq!(world.effects().await, expected);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn confirms_are_spread_over_the_shards_there_are_said_to_be() {
    let world = World::new().await;
    let mut settings = settings();
    settings.confirm_shards = 3;
    let consumer = world.consumer_with(settings).await;
    world.vhost.bind("countersign.confirm", CONFIRMS, "1").await;
    world.vhost.bind("countersign.confirm", CONFIRMS, "2").await;
    for count in 1..=6 {
        let id = world.publish_new("insert").await;
        world.confirmed(id, &["processed"]).await;
        assert_eq!(world.effects().await.len(), count);
    }
    let mut keys: Vec<_> =
        world.vhost.peek(CONFIRMS, 100).await.into_iter().map(|message| message.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["0", "0", "1", "1", "2", "2"]);
    consumer.stop().await;
}

#[tokio::test]
async fn an_error_that_the_handler_swallowed_is_not_taken_for_a_commit() {
    let world = World::new().await;
    let mut settings = settings();
    settings.retry_delays = Vec::new();
    let consumer = world.consumer_with(settings).await;
    let id = world.publish_new("swallow").await;
    let entries = world.confirmed(id, &["rejected"]).await;
    assert!(entries[0].reason().contains("the database would not commit"), "{entries:?}");
    assert_eq!(world.effects().await, [].into());
    consumer.stop().await;
}

#[tokio::test]
async fn a_handler_that_commits_by_itself_takes_effect_once_all_the_same() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id: MessageId = world.publish_new("commit").await;
    world.confirmed(id, &["processed"]).await;
    assert_eq!(world.effects().await, [(id, 1)].into());
    assert_eq!(consumer.effects.runs_of(id).len(), 1);
    consumer.stop().await;
}

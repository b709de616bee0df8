//! Databases that are gone without a word: nothing is closed, nothing answers.

use std::time::Duration;

use countersign_postgres::{PoolSettings, connect};
use countersign_testbed::{Depth, Proxy, Way, eventually};

use crate::world::{DEAD, QUEUE, World, settings};

/// What a silence may cost. The server, too, has to find out that its client is gone.
const A_MINUTE: Duration = Duration::from_secs(60);

/// A world whose consumers reach their database by way of a proxy, through this project's pool.
async fn world_behind_proxy() -> (Proxy, World) {
    let database = countersign_testbed::database().await;
    let (proxy, url) = Proxy::before(database.url()).await.unwrap();
    let mut connections = PoolSettings::new("tested");
    connections.max_connections = 25;
    connections.idle_in_transaction_timeout = Duration::from_secs(5);
    let pool = connect(&url.parse().unwrap(), connections).await;
    (proxy, World::on(countersign_testbed::vhost().await, pool, Some(database)).await)
}

#[tokio::test]
async fn a_handler_on_a_silent_connection_ends_and_its_message_takes_effect_once() {
    for way in [Way::ToTarget, Way::FromTarget, Way::Both] {
        let (proxy, world) = world_behind_proxy().await;
        let mut settings = settings();
        settings.handler_timeout = Some(Duration::from_secs(5));
        let consumer = world.consumer_with(settings).await;
        let id = world.publish_new("wait and ask").await;
        consumer.effects.entered(1).await;
        proxy.lose(way);
        consumer.effects.release(100);
        eventually("it takes effect", A_MINUTE, async || world.effects().await.contains_key(&id))
            .await;
        world.drained(QUEUE).await;
        assert_eq!(world.effects().await, [(id, 1)].into(), "{way:?}");
        assert_eq!(world.depth(DEAD).await, Depth::default(), "{way:?}");
        consumer.stop().await;
    }
}

/// Without a limit of its own.
#[tokio::test]
async fn a_handler_whose_transaction_the_server_has_lost_ends_and_uses_no_attempt() {
    for way in [Way::ToTarget, Way::FromTarget, Way::Both] {
        let (proxy, world) = world_behind_proxy().await;
        let consumer = world.consumer().await;
        let id = world.publish_new("wait and ask").await;
        consumer.effects.entered(1).await;
        proxy.lose(way);
        consumer.effects.release(100);
        eventually("it takes effect", A_MINUTE, async || world.effects().await.contains_key(&id))
            .await;
        eventually("it is acked", A_MINUTE, async || world.depth(QUEUE).await == Depth::default())
            .await;
        assert_eq!(world.effects().await, [(id, 1)].into(), "{way:?}");
        assert!(consumer.effects.runs().iter().all(|run| run.failures == 0), "{way:?}");
        consumer.stop().await;
    }
}

/// A handler may take as long as it likes while its transaction stands.
#[tokio::test]
async fn a_handler_that_takes_long_is_left_alone() {
    const LONG: Duration = Duration::from_secs(25);
    let world = World::new().await;
    let consumer = world.consumer().await;
    let id = world.publish_new("wait and ask").await;
    consumer.effects.entered(1).await;
    // Two looks and more: the claim stands, and the handler goes on.
    tokio::time::sleep(LONG).await;
    consumer.effects.release(1);
    world.drained(QUEUE).await;
    assert_eq!(world.effects().await, [(id, 1)].into());
    assert_eq!(consumer.effects.runs_of(id).len(), 1);
    consumer.stop().await;
}

#[tokio::test]
async fn a_commit_gone_silent_takes_effect_once_and_uses_no_attempt() {
    for way in [Way::ToTarget, Way::FromTarget, Way::Both] {
        let (proxy, world) = world_behind_proxy().await;
        let consumer = world.consumer().await;
        let id = world.publish_new("wait").await;
        consumer.effects.entered(1).await;
        proxy.lose(way);
        consumer.effects.release(100);
        eventually("it takes effect", A_MINUTE, async || world.effects().await.contains_key(&id))
            .await;
        eventually("it is acked", A_MINUTE, async || world.depth(QUEUE).await == Depth::default())
            .await;
        assert_eq!(world.effects().await, [(id, 1)].into(), "{way:?}");
        assert!(consumer.effects.runs().iter().all(|run| run.failures == 0), "{way:?}");
        consumer.stop().await;
    }
}

//! A consumer that has no database: everything is promised, but that a message takes effect once.

use std::sync::Arc;

use countersign_consumer::{Consumer, Delivery, Failure, Handler, Running};
use countersign_protocol::{MessageId, UnixMillis};
use countersign_testbed::Depth;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::world::{CONFIRMS, DEAD, QUEUE, World, id_at, in_time, settings};

/// A handler that remembers what it was run with, and then does what the message's body says.
#[derive(Clone, Default)]
struct Runs(Arc<watch::Sender<Vec<MessageId>>>);

impl Runs {
    fn of(&self, id: MessageId) -> usize {
        self.0.borrow().iter().filter(|run| **run == id).count()
    }

    async fn entered(&self, runs: usize) {
        let mut seen = self.0.subscribe();
        in_time("runs", seen.wait_for(|seen| seen.len() >= runs)).await.unwrap();
    }
}

impl Handler<()> for Runs {
    async fn handle(&self, (): &mut (), delivery: &Delivery) -> Result<(), Failure> {
        self.0.send_modify(|runs| runs.push(delivery.id()));
        match &**delivery.body() {
            b"retry once" if delivery.failures() == 0 => Err(Failure::retry("told to retry once")),
            b"panic once" if delivery.failures() == 0 => panic!("told to panic once"),
            b"reject" => Err(Failure::reject("told to reject")),
            b"hang once" if self.of(delivery.id()) == 1 => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

async fn consumer(world: &World) -> (Runs, CancellationToken, Running) {
    consumer_with(world, Runs::default()).await
}

async fn consumer_with(world: &World, runs: Runs) -> (Runs, CancellationToken, Running) {
    let shutdown = CancellationToken::new();
    let address = world.vhost.url().parse().unwrap();
    let consumer = Consumer::new(address, settings()).without_inbox().handler(runs.clone());
    let started = consumer.start(shutdown.clone());
    let running = in_time("the consumer", started).await.unwrap();
    world.see_confirms().await;
    (runs, shutdown, running)
}

async fn stop((_, shutdown, running): (Runs, CancellationToken, Running)) {
    shutdown.cancel();
    in_time("the drain", running.drained()).await;
}

#[tokio::test]
async fn without_an_inbox_every_delivery_is_handled_confirmed_and_acked() {
    let world = World::new().await;
    let consumer = consumer(&world).await;
    let id = world.publish_new("take it").await;
    world.confirmed(id, &["processed"]).await;
    world.publish(id, "take it").await;
    world.confirmed(id, &["processed", "processed"]).await;
    assert_eq!(consumer.0.of(id), 2, "nobody knows that it was handled before");
    world.drained(QUEUE).await;
    stop(consumer).await;
}

#[tokio::test]
async fn without_an_inbox_a_message_of_any_age_is_handled() {
    let world = World::new().await;
    let consumer = consumer(&world).await;
    for ms in [1, UnixMillis::MAX_IN_ID.ms()] {
        let id = id_at(UnixMillis::from_ms(ms));
        world.publish(id, "take it").await;
        world.confirmed(id, &["processed"]).await;
        assert_eq!(consumer.0.of(id), 1);
    }
    stop(consumer).await;
}

#[tokio::test]
async fn without_an_inbox_failures_wait_and_rejections_end_in_dead() {
    let world = World::new().await;
    let consumer = consumer(&world).await;
    for body in ["retry once", "panic once"] {
        let id = world.publish_new(body).await;
        world.confirmed(id, &["retrying", "processed"]).await;
        assert_eq!(consumer.0.of(id), 2, "{body}");
    }
    let rejected = world.publish_new("reject").await;
    let entries = world.confirmed(rejected, &["rejected"]).await;
    assert_eq!(entries[0].reason(), "told to reject");
    world.holds(DEAD, Depth { ready: 1, unacked: 0 }).await;
    assert_eq!(consumer.0.of(rejected), 1);
    world.drained(QUEUE).await;
    stop(consumer).await;
}

#[tokio::test]
async fn without_an_inbox_nothing_is_acked_before_the_broker_has_its_confirm() {
    let world = World::new().await;
    let consumer = consumer(&world).await;
    world.refuse_confirms().await;
    let id = world.publish_new("take it").await;
    consumer.0.entered(1).await;
    world.holds(QUEUE, Depth { ready: 0, unacked: 1 }).await;
    assert!(world.confirms_of(id).await.is_empty(), "refused by {CONFIRMS}");
    world.take_confirms_again().await;
    world.confirmed(id, &["processed"]).await;
    world.drained(QUEUE).await;
    stop(consumer).await;
}

#[tokio::test]
async fn without_an_inbox_a_handler_that_is_given_up_leaves_its_message_to_the_next() {
    let world = World::new().await;
    let (runs, _, running) = consumer(&world).await;
    let id = world.publish_new("hang once").await;
    runs.entered(1).await;
    drop(running);
    world.holds(QUEUE, Depth { ready: 1, unacked: 0 }).await;
    assert!(world.confirms_of(id).await.is_empty());
    let next = consumer_with(&world, runs).await;
    world.confirmed(id, &["processed"]).await;
    assert_eq!(next.0.of(id), 2);
    world.drained(QUEUE).await;
    stop(next).await;
}

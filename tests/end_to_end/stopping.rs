//! `SIGTERM` under load: a process ends in time, with exit code 0 and nothing half done.

use std::time::{Duration, Instant};

use countersign_testbed::HEALED;

use crate::world::World;

/// The drain deadline, and some more for a busy machine.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_stopped_consumer_leaves_nothing_half_done() {
    let mut world = calm().await;
    world.place_many(100).await;
    stop(&mut world, "logistics").await;
    world.place_many(20).await;
    world.logistics.start().unwrap();
    all_confirmed_without_a_resend(&world).await;
}

#[tokio::test]
async fn a_stopped_callback_service_leaves_nothing_half_done() {
    let mut world = calm().await;
    world.place_many(100).await;
    stop(&mut world, "callback").await;
    world.place_many(20).await;
    world.callback.start().unwrap();
    all_confirmed_without_a_resend(&world).await;
}

#[tokio::test]
async fn a_stopped_upstream_finishes_the_calls_that_it_took() {
    let mut world = calm().await;
    let mut started = Vec::new();
    for n in 0..100 {
        started.push(world.placing(&format!("order {n}")));
    }
    // An order that is refused from here on is refused as a whole.
    stop(&mut world, "orders").await;
    let mut accepted = 0;
    for placing in started {
        accepted += i64::from(placing.await.unwrap().is_ok());
    }
    let committed = i64::try_from(world.committed_orders().await.len()).unwrap();
    assert_eq!(accepted, committed, "who was told no had no order, who was told yes had one");
    world.orders.start().unwrap();
    all_confirmed_without_a_resend(&world).await;
}

/// A check delay that no restart exceeds: an overdue message was lost, not late.
async fn calm() -> World {
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "20s");
    world.callback.set("COUNTERSIGN_CHECK_TIERS", "20s");
    world.start().await;
    world
}

async fn stop(world: &mut World, name: &str) {
    let began = Instant::now();
    let ended = world.service(name).terminate(GRACE).await.unwrap();
    assert!(ended.success(), "{name}: {ended}");
    assert!(began.elapsed() < GRACE, "{name} took {:?}", began.elapsed());
}

async fn all_confirmed_without_a_resend(world: &World) {
    countersign_testbed::eventually("every order is confirmed", HEALED, async || {
        let orders = world.committed_orders().await.len();
        let confirmed: i64 = sqlx::query_scalar("SELECT count(*) FROM confirmation")
            .fetch_one(&world.databases.callback)
            .await
            .unwrap();
        if confirmed == i64::try_from(orders).unwrap() { Ok(()) } else { Err((confirmed, orders)) }
    })
    .await;
    assert_eq!(world.overdue_orders().await, [], "nothing was lost");
    for queue in [crate::world::ORDERS_QUEUE, crate::world::CONFIRM_QUEUE] {
        world.is_empty(queue).await;
    }
}

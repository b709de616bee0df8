//! The broker loses messages together with their checks: only the sweep finds them.

use countersign_testbed::{
    Broker, BrokerSettings, HEALED, Order, Postgres, PostgresSettings, eventually,
};
use serde_json::json;
use uuid::Uuid;

use crate::storms::{keep_the_budget, resent_at};
use crate::world::{ORDERS_QUEUE, World};

/// A world in which orders sweeps every second.
async fn sweeping(broker: &Broker, postgres: &Postgres) -> World {
    let mut world = World::on(broker.address(), postgres.address()).await;
    let callback = world.callback.url();
    world
        .orders
        .set("COUNTERSIGN_CHECK_DELAY", "5s")
        .set("COUNTERSIGN_LONGEST_TRANSACTION", "2s")
        .set("COUNTERSIGN_CALLBACK", callback)
        .set("COUNTERSIGN_SWEEP_EVERY", "1s");
    world
}

#[tokio::test]
async fn a_broker_that_lost_everything_with_2000_orders_under_way_is_healed_by_the_sweep() {
    const ORDERS: usize = 2_000;
    const SHIPPED: usize = 300;
    const RATE: f64 = 400.0;
    let mut broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let mut world = sweeping(&broker, &postgres).await;
    world.callback.set("COUNTERSIGN_RESEND_RATE", format!("{RATE}"));
    world.start().await;

    // The callback service is down, so that no check is looked up and no confirm recorded before
    // the broker is gone.
    world.callback.kill();
    let mut orders = world.place_many(SHIPPED).await;
    for order in &orders {
        world.shipped(order).await;
    }
    world.logistics.kill();
    orders.extend(world.place_many(ORDERS - SHIPPED).await);
    broker.wipe().await.unwrap();
    world.vhost.make(broker.address()).await.unwrap();
    world.logistics.start().unwrap();
    world.logistics.ready(HEALED).await.unwrap();
    // This queue gets all that the consumer gets. No message is resent before the callback service
    // is back.
    world.vhost.declare_queue("watch", json!({})).await;
    world.vhost.bind("orders", "watch", "order.placed").await;
    world.callback.start().unwrap();

    are_confirmed(&world, &orders).await;
    let mut resends = Vec::new();
    while let some @ [_, ..] = &*world.vhost.take("watch", 500).await {
        resends.extend(some.iter().filter_map(resent_at));
    }
    assert!(resends.len() >= ORDERS, "{} resends", resends.len());
    keep_the_budget(resends, RATE);
    let duplicates = world.duplicates().await;
    assert!(duplicates >= 300, "those shipped before were sent again, too: {duplicates}");
    world.audit().await;
}

#[tokio::test]
async fn a_cancelled_order_is_asked_about_and_not_sent_one_that_cannot_be_found_is_parked_and_one_process_sweeps()
 {
    let mut broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let world = sweeping(&broker, &postgres).await;
    world.start().await;
    let other = world.replica(&world.orders, "orders-2");
    other.start().unwrap();
    other.ready(HEALED).await.unwrap();
    world.callback.kill();
    world.logistics.kill();
    let orders = world.place_many(3).await;
    let [cancelled, vanished, _] = orders[..] else { panic!("three orders") };
    for (sql, order) in [
        ("UPDATE orders SET cancelled_at = now() WHERE order_id = $1", cancelled),
        ("DELETE FROM orders WHERE order_id = $1", vanished),
    ] {
        sqlx::query(sql).bind(order.order_id).execute(&world.databases.orders).await.unwrap();
    }
    broker.wipe().await.unwrap();
    world.vhost.make(broker.address()).await.unwrap();
    world.callback.start().unwrap();
    world.logistics.start().unwrap();

    are_confirmed(&world, &orders[2..]).await;
    let parked = world.is_in_state(&vanished, "parked").await;
    assert!(parked.reason.contains("does not find it"), "{}", parked.reason);
    world.is_empty(ORDERS_QUEUE).await;
    assert_eq!(world.shipments(&cancelled).await, 0);
    world.is_in_state(&cancelled, "withdrawn").await;
    let swept = |log: String| log.contains("arming fresh checks");
    assert_ne!(swept(world.orders.log()), swept(other.log()), "one of the two, and not both");
    assert!(other.terminate(HEALED).await.unwrap().success());
    // The audit asks for every committed order.
    sqlx::query("DELETE FROM orders WHERE order_id = $1")
        .bind(cancelled.order_id)
        .execute(&world.databases.orders)
        .await
        .unwrap();
    world.audit().await;
}

#[tokio::test]
async fn a_sweep_that_asks_the_wrong_service_says_so_once_and_harms_nothing() {
    let mut world = World::new().await;
    let itself = world.orders.url();
    world
        .orders
        .set("COUNTERSIGN_CALLBACK", itself)
        .set("COUNTERSIGN_CHECK_DELAY", "1s")
        .set("COUNTERSIGN_LONGEST_TRANSACTION", "100ms")
        .set("COUNTERSIGN_SWEEP_EVERY", "100ms");
    world.start().await;
    let order = world.place("an order").await;
    world.is_in_state(&order, "confirmed").await;
    let said = || world.orders.log().matches("does not know FindUnconfirmed").count();
    eventually("the sweep complains", HEALED, async || said() > 0).await;
    assert_eq!(said(), 1);
    world.audit().await;
}

/// Waits as long as the healing goes on: the wait fails when no further order is confirmed for a
/// whole [`HEALED`].
async fn are_confirmed(world: &World, orders: &[Order]) {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.message_id).collect();
    let mut missing = orders.len();
    while missing > 0 {
        let what = format!("fewer than {missing} of {} orders are not confirmed", orders.len());
        missing = eventually(&what, HEALED, async || {
            let confirmed: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM confirmation
                 WHERE consumer = 'logistics' AND message_id = ANY($1)",
            )
            .bind(&ids)
            .fetch_one(&world.databases.callback)
            .await
            .unwrap();
            let left = orders.len() - usize::try_from(confirmed).unwrap();
            if left < missing { Ok(left) } else { Err(left) }
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_wiped_broker_lost_comes_back_with_30_days_of_messages_behind_it() {
    // As many as one cursor for everything took minutes for, at 2,000 looks a second.
    const BEHIND: i64 = 400_000;
    const LOST: usize = 300;
    let mut broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let mut world = sweeping(&broker, &postgres).await;
    world.callback.set("COUNTERSIGN_RESEND_RATE", "400");
    world.start().await;
    for (database, insert) in [
        (
            &world.databases.orders,
            "INSERT INTO countersign.enlisted (message_id, upstream, consumers, check_delay_ms)
             SELECT message_id, 'orders', 'logistics', 5000 FROM old",
        ),
        (
            &world.databases.callback,
            "INSERT INTO confirmation (message_id, consumer, attempt)
             SELECT message_id, 'logistics', 1 FROM old",
        ),
    ] {
        let sql = format!(
            "WITH old AS (
                 SELECT (lpad(to_hex((extract(epoch FROM date_trunc('day', now())) * 1000)::bigint
                             - 29::bigint * 86400000 + n * 28 * 86400000 / {BEHIND}), 12, '0')
                         || '70008000' || lpad(to_hex(n), 12, '0'))::uuid AS message_id
                 FROM generate_series(0, {BEHIND}::bigint - 1) AS series (n)
             )
             {insert}"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(database).await.unwrap();
    }

    world.callback.kill();
    world.logistics.kill();
    let orders = world.place_many(LOST).await;
    broker.wipe().await.unwrap();
    world.vhost.make(broker.address()).await.unwrap();
    world.callback.start().unwrap();
    world.logistics.start().unwrap();
    are_confirmed(&world, &orders).await;
    for order in &orders {
        assert_eq!(world.shipments(order).await, 1);
    }
}

#[tokio::test]
async fn what_the_ledger_forgot_is_found_by_the_walk() {
    let broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let world = sweeping(&broker, &postgres).await;
    world.start().await;
    let order = world.place("an order").await;
    are_confirmed(&world, &[order]).await;
    let orders = &world.databases.orders;
    eventually("the head has passed it", HEALED, async || {
        let passed = "SELECT coalesce(head > $1, false) FROM countersign.sweep";
        let passed = sqlx::query_scalar(passed).bind(order.message_id).fetch_optional(orders);
        passed.await.unwrap().unwrap_or(false)
    })
    .await;

    // As when the ledger's database fails over and loses its last commits.
    for sql in ["DELETE FROM confirmation", "DELETE FROM overdue"] {
        sqlx::query(sql).execute(&world.databases.callback).await.unwrap();
    }
    // As in docs/operating.md.
    sqlx::query("UPDATE countersign.sweep SET walk_begun_at = NULL, walk_ended_at = NULL")
        .execute(orders)
        .await
        .unwrap();
    are_confirmed(&world, &[order]).await;
    assert_eq!(world.shipments(&order).await, 1);
    world.audit().await;
}

#[tokio::test]
async fn a_committed_order_that_was_denied_is_found_by_the_sweep_and_healed() {
    let mut broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let world = sweeping(&broker, &postgres).await;
    world.start().await;
    world.callback.kill();
    world.logistics.kill();
    let order = world.place("a denied order").await;
    broker.wipe().await.unwrap();
    world.vhost.make(broker.address()).await.unwrap();
    // As if another upstream had answered for it.
    sqlx::query(
        "INSERT INTO overdue (message_id, upstream, consumers, state, cause, reason, closed_at)
         VALUES ($1, 'orders', '{logistics}', 'never_committed', 'never_committed', '', now())",
    )
    .bind(order.message_id)
    .execute(&world.databases.callback)
    .await
    .unwrap();
    world.callback.start().unwrap();
    world.logistics.start().unwrap();
    are_confirmed(&world, &[order]).await;
    world.is_in_state(&order, "confirmed").await;
    let history: Vec<String> = sqlx::query_scalar(
        "SELECT to_state FROM overdue_event WHERE message_id = $1 ORDER BY event_id",
    )
    .bind(order.message_id)
    .fetch_all(&world.databases.callback)
    .await
    .unwrap();
    assert_eq!(history[..2], ["conflict", "waiting"], "{history:?}");
    assert!(world.orders.log().contains("the callback service was told otherwise"));
    world.audit().await;
}

//! The callback service does not ask for a message that is only late, because the service itself or
//! a consumer was away, hangs or is slow. It asks for a message that is lost meanwhile all the
//! same.

use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::ListConsumersRequest;
use countersign_protocol::grpc::callback_client::CallbackClient;
use countersign_protocol::grpc::list_consumers_response::Consumer;
use countersign_testbed::{Clock, HEALED, Order, SOON, Service, Signal, eventually};

use crate::world::{GRACE, ORDERS_QUEUE, World, channel, ends};

const CHECK_DELAY: Duration = Duration::from_secs(2);

/// Checks come due after 2 s, and the callback service leaves an unknown consumer alone for long: a
/// message is asked for here only because it is known to be missing.
async fn world() -> World {
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "2s");
    world.callback.set("COUNTERSIGN_CHECK_TIERS", "2s").set("COUNTERSIGN_BACKLOG_GRACE", "30s");
    world.start().await;
    world
}

/// Places this many orders and waits until each is confirmed: the callback service then knows how
/// far the consumer is.
async fn confirmed(world: &World, count: usize) {
    for order in world.place_many(count).await {
        world.is_in_state(&order, "confirmed").await;
    }
}

async fn all_confirmed(world: &World) {
    let orders: Vec<String> =
        world.committed_orders().await.iter().map(|order| order.message_id.to_string()).collect();
    world
        .callback_finds(
            "every order is confirmed",
            "SELECT message_id::text FROM confirmation",
            &orders.into_iter().collect(),
        )
        .await;
}

/// The callback service asked for no message of a committed order, and parked none.
async fn nothing_was_sent_again(world: &World) {
    let rows = world.overdue_orders().await;
    let asked: Vec<_> = rows.iter().filter(|row| row.resends > 0).collect();
    assert!(asked.is_empty(), "{} of {} were asked for: {:?}", asked.len(), rows.len(), asked[0]);
    let parked: Vec<_> = rows.iter().filter(|row| row.state == "parked").collect();
    assert!(parked.is_empty(), "{} were parked: {:?}", parked.len(), parked[0]);
}

/// A consumer as `ListConsumers` shows it.
async fn consumers(callback: &Service) -> Vec<Consumer> {
    let mut client = CallbackClient::new(channel(callback));
    client.list_consumers(ListConsumersRequest {}).await.unwrap().into_inner().consumers
}

/// Waits until logistics makes no progress while messages wait for it.
async fn no_progress(world: &World, at_least: u64) {
    eventually("logistics makes no progress", HEALED, async || {
        let consumers = consumers(&world.callback).await;
        match &*consumers {
            [one] if one.state == "no_progress" && one.deferred >= at_least => Ok(()),
            _ => Err(consumers),
        }
    })
    .await;
}

async fn outage(checks_are_due: &World) {
    checks_are_due.holds_at_least("countersign.check.due", 1).await;
    tokio::time::sleep(3 * CHECK_DELAY).await;
}

#[tokio::test]
async fn a_callback_service_that_was_away_asks_for_nothing() {
    let world = world().await;
    confirmed(&world, 10).await;
    assert!(world.callback.terminate(GRACE).await.unwrap().success());
    world.place_many(500).await;
    outage(&world).await;
    world.callback.start().unwrap();
    world.callback.ready(SOON).await.unwrap();
    all_confirmed(&world).await;
    world.checks_have_come_due().await;
    nothing_was_sent_again(&world).await;
    assert_eq!(world.duplicates().await, 0);
    world.audit().await;
}

#[tokio::test]
async fn a_rolling_restart_asks_for_nothing() {
    let world = world().await;
    let second = world.replica(&world.callback, "callback-2");
    second.start().unwrap();
    second.ready(SOON).await.unwrap();
    confirmed(&world, 10).await;
    for _ in 0..2 {
        world.place_many(100).await;
        assert!(second.terminate(GRACE).await.unwrap().success());
        world.place_many(100).await;
        second.start().unwrap();
        second.ready(SOON).await.unwrap();
        assert!(world.callback.terminate(GRACE).await.unwrap().success());
        world.place_many(100).await;
        world.callback.start().unwrap();
        world.callback.ready(SOON).await.unwrap();
    }
    all_confirmed(&world).await;
    world.checks_have_come_due().await;
    nothing_was_sent_again(&world).await;
    assert_eq!(world.duplicates().await, 0);
    world.audit().await;
}

#[tokio::test]
async fn a_consumer_that_was_away_gets_nothing_twice() {
    const WAITING: u64 = 5_000;
    let world = world().await;
    confirmed(&world, 10).await;
    assert!(world.logistics.terminate(GRACE).await.unwrap().success());
    world.place_many(usize::try_from(WAITING).unwrap()).await;
    tokio::time::sleep(3 * CHECK_DELAY).await;
    no_progress(&world, WAITING).await;
    let alarms = world.callback.log().matches("no progress for").count();
    assert!(alarms <= 1, "one line, whatever the number of messages: {alarms}");
    world.logistics.start().unwrap();
    eventually("logistics has caught up", 3 * HEALED, async || {
        let shipped: i64 = sqlx::query_scalar("SELECT count(*) FROM shipments")
            .fetch_one(&world.databases.logistics)
            .await
            .unwrap();
        if shipped.unsigned_abs() >= WAITING { Ok(()) } else { Err(shipped) }
    })
    .await;
    all_confirmed(&world).await;
    nothing_was_sent_again(&world).await;
    assert_eq!(world.duplicates().await, 0);
    world.audit().await;
}

#[tokio::test]
async fn a_consumer_that_hangs_gets_nothing_twice() {
    let world = world().await;
    confirmed(&world, 10).await;
    world.logistics.signal(Signal::Stop);
    // As many messages as the consumer takes in hand at once: the queue itself looks empty.
    let orders = world.place_many(20).await;
    no_progress(&world, 20).await;
    nothing_was_sent_again(&world).await;
    world.logistics.signal(Signal::Cont);
    for order in &orders {
        world.is_in_state(order, "confirmed").await;
    }
    nothing_was_sent_again(&world).await;
    world.audit().await;
}

#[tokio::test]
async fn what_is_destroyed_before_a_slow_consumer_is_asked_for_and_nothing_else() {
    let world = world().await;
    confirmed(&world, 10).await;
    // 20 handlers at once, so 20 orders in a second: fewer than a busy machine places.
    for sql in [
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE INSERT ON shipments
         FOR EACH ROW EXECUTE FUNCTION slow()",
    ] {
        sqlx::query(sql).execute(&world.databases.logistics).await.unwrap();
    }
    // A few seconds of work more than logistics takes into its hands.
    world.place_many(120).await;
    let destroyed = eventually("a message waits before logistics", HEALED, async || {
        let waiting = world.vhost.take(ORDERS_QUEUE, 1).await.pop();
        if waiting.is_none() {
            world.place_many(40).await;
        }
        waiting.ok_or("none waits")
    })
    .await;
    let id = destroyed.message_id().unwrap().parse().unwrap();
    let destroyed = Order { order_id: id, message_id: id };
    // The backlog lasts until the callback service asks for the message, and stays short: logistics
    // has passed the message only once it ships an order that was placed 5 s later. What logistics has in
    // hand (200 messages) belongs to it.
    eventually("the destroyed message is asked for", HEALED, async || {
        while unshipped(&world).await < 300 {
            world.place_many(40).await;
        }
        let rows = world.overdue().await;
        let row = rows.into_iter().find(|row| row.message_id == id);
        if row.as_ref().is_some_and(|row| row.resends > 0) { Ok(()) } else { Err(row) }
    })
    .await;
    assert!(unshipped(&world).await > 1, "logistics was behind all the time");
    let sql = "DROP TRIGGER slow ON shipments";
    sqlx::query(sql).execute(&world.databases.logistics).await.unwrap();
    let message = world.is_in_state(&destroyed, "confirmed").await;
    assert_eq!(message.resends, 1, "{message:?}");
    all_confirmed(&world).await;
    let rows = world.overdue_orders().await;
    let others: Vec<_> =
        rows.iter().filter(|row| row.resends > 0 && row.message_id != id).collect();
    assert!(others.is_empty(), "{} others were asked for: {:?}", others.len(), others[0]);
    assert_eq!(world.duplicates().await, 0);
    world.audit().await;
}

/// How many orders are placed and not shipped.
async fn unshipped(world: &World) -> i64 {
    let count = async |sql: &'static str, pool| -> i64 {
        sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
    };
    // In this order, a backlog looks too small rather than too large.
    let placed = count("SELECT count(*) FROM orders", &world.databases.orders).await;
    placed - count("SELECT count(*) FROM shipments", &world.databases.logistics).await
}

#[tokio::test]
async fn an_upstream_whose_clock_is_ten_minutes_ahead_shares_a_consumer() {
    clocks_differ(600).await;
}

#[tokio::test]
async fn an_upstream_whose_clock_is_ten_minutes_behind_shares_a_consumer() {
    clocks_differ(-600).await;
}

/// Two upstreams share a consumer: one has the right time, the other is off by so many seconds.
/// While the consumer is behind, neither clock makes it look as if it had passed the other
/// upstream's messages; each upstream sends its destroyed messages again.
async fn clocks_differ(seconds: i64) {
    const WAITING: usize = 150;
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "2s");
    let clock = Clock::right().unwrap();
    clock.set(seconds).unwrap();
    let mut bookings = world.replica(&world.orders, "bookings");
    bookings.set("COUNTERSIGN_UPSTREAM_NAME", "bookings").on(&clock);
    let upstreams = format!("orders={},bookings={}", world.orders.url(), bookings.url());
    world
        .callback
        .set("COUNTERSIGN_CHECK_TIERS", "2s")
        .set("COUNTERSIGN_BACKLOG_GRACE", "30s")
        .set("COUNTERSIGN_UPSTREAMS", upstreams);
    world.start().await;
    bookings.start().unwrap();
    bookings.ready(SOON).await.unwrap();

    let (right, wrong) = (world.place_many(10).await, world.place_many_at(&bookings, 10).await);
    let made_at = |order: &Order| MessageId::try_from(order.message_id).unwrap().time().ms();
    let apart = (made_at(&wrong[0]) - made_at(&right[0])) / 1_000 - seconds;
    assert!(apart.abs() < 60, "the clock is off by {apart} s more than it should be");
    for order in right.iter().chain(&wrong) {
        world.is_in_state(order, "confirmed").await;
    }

    assert!(world.logistics.terminate(GRACE).await.unwrap().success());
    world.place_many(WAITING).await;
    world.place_many_at(&bookings, WAITING).await;
    tokio::time::sleep(3 * CHECK_DELAY).await;
    eventually("logistics makes no progress for either", HEALED, async || {
        let consumers = consumers(&world.callback).await;
        let waits =
            |of: &Consumer| of.state == "no_progress" && of.deferred >= WAITING.try_into().unwrap();
        if consumers.len() == 2 && consumers.iter().all(waits) { Ok(()) } else { Err(consumers) }
    })
    .await;
    nothing_was_sent_again(&world).await;
    world.logistics.start().unwrap();
    all_confirmed(&world).await;
    nothing_was_sent_again(&world).await;
    assert_eq!(world.duplicates().await, 0);

    assert!(world.logistics.terminate(GRACE).await.unwrap().success());
    let destroyed = [world.place_many(1).await[0], world.place_many_at(&bookings, 1).await[0]];
    world.holds(ORDERS_QUEUE, 2).await;
    world.destroy(ORDERS_QUEUE).await;
    world.logistics.start().unwrap();
    for order in &destroyed {
        let message = world.is_in_state(order, "confirmed").await;
        assert_eq!(message.resends, 1, "{message:?}");
    }
    world.balances(HEALED).await;
    ends(&bookings).await;
    world.ends().await;
}

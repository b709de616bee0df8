//! Many faults at once: upstreams that are down or slow, many messages lost, many transactions
//! rolled back, replicas that die or freeze.
//!
//! Scaled so that each takes less than a minute: outages last seconds instead of minutes, and
//! thousands of orders stand for tens of thousands.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_testbed::{Conduct, HEALED, Peeked, Proxy, SOON, Signal, eventually};
use serde_json::json;
use tokio::task::JoinSet;

use crate::world::{CONFIRM_QUEUE, GRACE, ORDERS_QUEUE, World};

/// Orders of which `destroyed` messages are destroyed before any check is looked up: the callback
/// service, the consumer and in the end also the upstream are down.
async fn destroyed(world: &mut World, destroyed: usize) {
    world.callback.kill();
    world.logistics.kill();
    world.place_many(destroyed).await;
    let placed = u64::try_from(destroyed).unwrap();
    // The messages are published, though no caller waited for that.
    world.holds(ORDERS_QUEUE, placed).await;
    world.destroy(ORDERS_QUEUE).await;
    world.orders.kill();
}

async fn count(world: &World, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&world.databases.callback).await.unwrap()
}

/// Returns when this many messages have gone this way.
async fn have_become(world: &World, state: &'static str, messages: usize) {
    eventually(&format!("{messages} messages are {state}"), HEALED, async || {
        let sql = "SELECT count(*) FROM overdue WHERE state = $1";
        let count: i64 =
            sqlx::query_scalar(sql).bind(state).fetch_one(&world.databases.callback).await.unwrap();
        if count >= i64::try_from(messages).unwrap() { Ok(()) } else { Err(count) }
    })
    .await;
}

/// Two minutes, scaled to the time in which the breaker tries in vain twice.
#[tokio::test]
async fn an_upstream_that_is_down_for_long_costs_no_attempt_and_all_is_healed_when_it_is_back() {
    const ORDERS: usize = 200;
    let mut world = World::new().await;
    world.callback.set("COUNTERSIGN_RESEND_DELAY", "5s");
    world.start().await;
    destroyed(&mut world, ORDERS).await;
    world.logistics.start().unwrap();
    world.callback.start().unwrap();
    world.callback.ready(SOON).await.unwrap();

    eventually("the upstream is tried in vain twice", HEALED, async || {
        let states = breaker_states(&world.callback.log());
        if states.len() >= 5 { Ok(()) } else { Err(states) }
    })
    .await;
    let used = "SELECT count(*) FROM overdue WHERE state <> 'asking' AND resends > 0";
    assert_eq!(count(&world, used).await, 0, "no attempt is used");
    let tried = "SELECT count(DISTINCT message_id) FROM overdue_event WHERE to_state = 'asking'";
    let tried = count(&world, tried).await;
    assert!(tried < 100, "most are left alone, not tried one after the other: {tried}");

    world.orders.start().unwrap();
    have_become(&world, "confirmed", ORDERS).await;
    // One line for each change of state, and nothing else: no state follows itself.
    let states = breaker_states(&world.callback.log());
    assert_eq!(states.first().map(String::as_str), Some("open"));
    assert_eq!(states.last().map(String::as_str), Some("closed"));
    let follows = |pair: &[String]| match &*pair[0] {
        "open" => pair[1] == "half_open",
        "half_open" => pair[1] == "open" || pair[1] == "closed",
        _ => pair[1] == "open",
    };
    assert!(states.windows(2).all(follows), "{states:?}");
    world.audit().await;
}

/// The changes of the breaker's state, as the log tells them.
fn breaker_states(log: &str) -> Vec<String> {
    let state = |line: &str| Some(line.split_once("breaker=\"")?.1.split_once('"')?.0.to_owned());
    log.lines().filter_map(state).collect()
}

#[tokio::test]
async fn an_upstream_that_republishes_but_answers_too_late_is_asked_a_bounded_number_of_times() {
    const RESENDS: u64 = 2;
    let mut world = World::new().await;
    let orders = world.orders.url().trim_start_matches("http://").parse().unwrap();
    let proxy = Proxy::start(orders).await.unwrap();
    world
        .callback
        .set("COUNTERSIGN_UPSTREAMS", format!("orders=http://{}", proxy.address()))
        .set("COUNTERSIGN_MAX_RESENDS", RESENDS.to_string());
    world.start().await;
    // A call has five seconds: it reaches the upstream, but its answer comes too late.
    proxy.conduct(Conduct::Forward { after: Duration::from_secs(3) });
    world.logistics.kill();
    let order = world.place("an order").await;

    let message = world.is_in_state(&order, "parked").await;
    assert_eq!(u64::from(message.resends), RESENDS);
    assert_eq!(message.cause, "resends_used_up");
    assert!(message.reason.contains("no answer from orders"), "{}", message.reason);
    let causes: Vec<&str> = message.history.iter().map(|event| event.cause.as_str()).collect();
    let asked_in_vain = ["not_confirmed", "unanswered"].repeat(2);
    assert_eq!(causes, [vec!["not_confirmed"], asked_in_vain, vec!["resends_used_up"]].concat());
    world.holds(ORDERS_QUEUE, 1 + RESENDS).await;

    world.logistics.start().unwrap();
    world.is_in_state(&order, "confirmed").await;
    assert_eq!(world.shipments(&order).await, 1);
    world.audit().await;
}

/// 30 % of 10,000, scaled to 900 of 3,000, at the default budget of 100 resends a second.
#[tokio::test]
async fn when_a_third_of_the_messages_is_destroyed_canaries_go_first_and_the_budget_is_kept() {
    const ORDERS: usize = 3_000;
    const DESTROYED: usize = 900;
    const RATE: f64 = 100.0;
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "15s");
    world
        .callback
        .set("COUNTERSIGN_CHECK_TIERS", "15s")
        .set("COUNTERSIGN_RESEND_DELAY", "20s")
        .set("COUNTERSIGN_RESEND_RATE", format!("{RATE}"));
    world.start().await;
    // This queue gets all that the consumer gets.
    world.vhost.declare_queue("watch", json!({})).await;
    world.vhost.bind("orders", "watch", "order.placed").await;
    world.logistics.kill();
    let placed = world.place_many(ORDERS).await;
    let mut destroyed = 0;
    while destroyed < DESTROYED {
        destroyed += world.vhost.take(ORDERS_QUEUE, 300).await.len();
    }
    world.logistics.start().unwrap();

    for order in &placed[..destroyed] {
        // In the order of their publishing, roughly: the last ones take longest.
        if world.shipments(order).await == 0 {
            world.shipped(order).await;
        }
    }
    have_become(&world, "confirmed", destroyed).await;

    let mut resends = Vec::new();
    while let some @ [_, ..] = &*world.vhost.take("watch", 500).await {
        resends.extend(some.iter().filter_map(resent_at));
    }
    assert!(resends.len() >= destroyed, "{} resends", resends.len());
    keep_the_budget(resends, RATE);
    // Until so many have been confirmed that nothing is held back, each canary that comes back lets
    // one more go. Fewer than 50 checks say nothing, so that many may have gone before.
    let events: Vec<String> = sqlx::query_scalar(
        "SELECT to_state FROM overdue_event
         WHERE to_state = 'asking' OR (to_state = 'confirmed' AND resends > 0) ORDER BY event_id",
    )
    .fetch_all(&world.databases.callback)
    .await
    .unwrap();
    let (mut asked, mut confirmed) = (0, 0);
    for event in events {
        *if event == "asking" { &mut asked } else { &mut confirmed } += 1;
        if asked >= 100 {
            break;
        }
        assert!(asked <= 49 + 5 + 2 * confirmed, "{asked} were asked for, {confirmed} confirmed");
    }
    let log = world.callback.log();
    for line in ["only canaries are asked for", "the storm is over"] {
        assert_eq!(log.lines().filter(|logged| logged.contains(line)).count(), 1, "{line}");
    }
    world.vhost.delete_queue("watch").await;
    world.audit().await;
}

/// Checks that these resends, by their times in milliseconds, are never more than `rate` a second.
pub(crate) fn keep_the_budget(mut resends: Vec<i64>, rate: f64) {
    // Besides: the tokens that may be saved up, and the calls that are under way.
    let at_once = rate / 4.0 + 64.0;
    resends.sort_unstable();
    for (i, from) in resends.iter().enumerate() {
        for (count, to) in resends[i..].iter().enumerate().map(|(n, to)| (n + 1, to)) {
            let most = at_once + rate * (to - from) as f64 / 1_000.0;
            assert!(count as f64 <= most, "{count} resends in {} ms", to - from);
        }
    }
}

/// When the upstream published the message again, in milliseconds since 1970. `None` for a first
/// publish.
pub(crate) fn resent_at(message: &Peeked) -> Option<i64> {
    let header = |name: &str| message.headers[name].as_i64().unwrap();
    (header("countersign-attempt") >= 2).then(|| header("countersign-published-at-ms"))
}

/// With a budget of 10 resends a second, of which 900 rollbacks would take 90 seconds.
#[tokio::test]
async fn when_a_third_of_the_orders_is_rolled_back_nothing_is_held_back_or_parked() {
    const ROUNDS: usize = 100;
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "5s").set("COUNTERSIGN_LONGEST_TRANSACTION", "3s");
    world.callback.set("COUNTERSIGN_RESEND_RATE", "10");
    world.start().await;
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let mut round = JoinSet::new();
        for n in 0..30 {
            // A name of blanks is refused by the database, in the transaction.
            let name = if n < 9 { "   ".to_owned() } else { format!("order {n}") };
            round.spawn(world.placing(&name));
        }
        for placed in round.join_all().await {
            *if placed.unwrap().is_ok() { &mut accepted } else { &mut refused } += 1;
        }
    }
    assert!(refused >= 9 * ROUNDS, "{refused} of {}", accepted + refused);
    world.checks_have_come_due().await;
    eventually("every rollback is settled", HEALED, async || {
        let open = "SELECT count(*) FROM overdue WHERE state IN ('waiting', 'asking')";
        match count(&world, open).await {
            0 => Ok(()),
            open => Err(open),
        }
    })
    .await;
    assert_eq!(count(&world, "SELECT count(*) FROM overdue WHERE state = 'parked'").await, 0);
    let stormy = "SELECT count(*) FROM upstream_pace WHERE canaries IS NOT NULL";
    assert_eq!(count(&world, stormy).await, 0);
    assert!(!world.callback.log().contains("only canaries"), "rollbacks are no storm");
    world.audit().await;
}

#[tokio::test]
async fn a_killed_and_a_frozen_replica_ask_for_nothing_beyond_their_lease_and_lose_nothing() {
    const ORDERS: usize = 100;
    /// The callback service's setting: how long no other replica asks.
    const LEASE: f64 = 20.0;
    let mut world = World::new().await;
    let orders = world.orders.url().trim_start_matches("http://").parse().unwrap();
    let proxy = Proxy::start(orders).await.unwrap();
    world
        .callback
        .set("COUNTERSIGN_UPSTREAMS", format!("orders=http://{}", proxy.address()))
        .set("COUNTERSIGN_RESEND_DELAY", "5s");
    world.start().await;
    destroyed(&mut world, ORDERS).await;
    world.orders.start().unwrap();
    world.orders.ready(SOON).await.unwrap();
    world.logistics.start().unwrap();

    // Calls take long enough that replicas die in the middle of some.
    proxy.conduct(Conduct::Forward { after: Duration::from_millis(500) });
    let frozen = world.replica(&world.callback, "callback-2");
    frozen.start().unwrap();
    frozen.ready(SOON).await.unwrap();
    is_asking(&world).await;
    frozen.signal(Signal::Stop);
    world.callback.start().unwrap();
    world.callback.ready(SOON).await.unwrap();
    asks_were_answered(&world).await;
    is_asking(&world).await;
    world.callback.kill();
    // The frozen replica goes on with the leases that it believes to hold.
    frozen.signal(Signal::Cont);
    world.callback.start().unwrap();

    have_become(&world, "confirmed", ORDERS).await;
    let too_soon: Vec<(String, f64)> = sqlx::query_as(
        "SELECT message_id::text, extract(epoch FROM at - before)::float8 FROM (
             SELECT message_id, at, to_state, lag(at) OVER own AS before,
                    lag(to_state) OVER own AS state_before
             FROM overdue_event WINDOW own AS (PARTITION BY message_id ORDER BY event_id)
         ) AS event
         WHERE to_state = 'asking' AND state_before = 'asking'
           AND extract(epoch FROM at - before) < $1",
    )
    .bind(LEASE)
    .fetch_all(&world.databases.callback)
    .await
    .unwrap();
    assert_eq!(too_soon, [], "asked for again although another replica held the lease");
    // The resends that the upstream really got: each attempt of each message once.
    let mut seen = BTreeSet::new();
    for line in world.orders.log().lines().filter(|line| line.contains("asked to send again")) {
        let field = |name: &str| {
            let (_, rest) = line.split_once(name).unwrap_or_else(|| panic!("{name} in {line}"));
            rest.split_whitespace().next().unwrap().to_owned()
        };
        let ask = (field(" message_id="), field(" attempt="));
        assert!(seen.insert(ask.clone()), "{ask:?} was asked for twice");
    }
    assert!(seen.len() >= ORDERS, "{}", seen.len());
    assert_eq!(frozen.ended(), None, "the frozen one lives on");
    assert!(frozen.terminate(GRACE).await.unwrap().success());
    world.is_empty(CONFIRM_QUEUE).await;
    world.audit().await;
}

/// Returns when a replica holds a lease.
async fn is_asking(world: &World) {
    eventually("a replica asks", HEALED, async || {
        count(world, "SELECT count(*) FROM overdue WHERE state = 'asking'").await > 0
    })
    .await;
}

/// Returns when some more calls were answered.
async fn asks_were_answered(world: &World) {
    let answered = "SELECT count(*) FROM overdue_event WHERE from_state = 'asking'";
    let before = count(world, answered).await;
    eventually("some calls are answered", HEALED, async || count(world, answered).await > before)
        .await;
}

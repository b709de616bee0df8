//! Clocks that jump, of the database server and of each party, forwards and backwards, and back again.

use std::sync::Arc;

use countersign_testbed::{Clock, HEALED, Postgres, PostgresSettings, Servers, eventually};

use crate::world::{GRACE, ORDERS_QUEUE, QUARANTINE, World};

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;
const YEAR: i64 = 365 * DAY;

#[tokio::test]
async fn a_database_server_whose_clock_jumps_ahead_loses_nothing() {
    the_servers_clock_jumps(&[10 * MINUTE, 40 * DAY, 20 * YEAR]).await;
}

#[tokio::test]
async fn a_database_server_whose_clock_jumps_back_loses_nothing() {
    the_servers_clock_jumps(&[-10 * MINUTE, -40 * DAY, -50 * YEAR]).await;
}

/// The server with all three databases: its clock jumps while a destroyed message waits for its check and others
/// are under way, parties start meanwhile, and the clock is set right again. Every order is shipped once, nothing
/// is quarantined or dead, and nothing that was recorded is gone.
async fn the_servers_clock_jumps(jumps: &[i64]) {
    let clock = Arc::new(Clock::right().unwrap());
    let settings = PostgresSettings { clock: Some(Arc::clone(&clock)), ..Default::default() };
    let postgres = Postgres::start(settings).await.unwrap();
    let servers = Servers::shared().await.unwrap();
    let world = World::on(servers.broker(), postgres.address()).await;
    world.start().await;

    for &jump in jumps {
        let recorded = recorded(&world).await;
        let processed = world.place("processed").await;
        world.is_in_state(&processed, "confirmed").await;
        assert!(world.logistics.terminate(GRACE).await.unwrap().success());
        let destroyed = world.place("destroyed").await;
        world.holds(ORDERS_QUEUE, 1).await;
        world.destroy(ORDERS_QUEUE).await;
        world.place("under way").await;

        let before = [&world.logistics, &world.callback].map(|service| service.log().len());
        clock.set(jump).unwrap();
        // An order may be refused meanwhile; what is taken counts.
        let _ = world.try_place("wrong clock").await;
        world.logistics.start().unwrap();
        assert!(world.callback.terminate(GRACE).await.unwrap().success());
        world.callback.start().unwrap();
        if jump.abs() > 60 * MINUTE {
            let side = if jump > 0 { "ahead of" } else { "behind" };
            for (service, from) in [&world.logistics, &world.callback].into_iter().zip(before) {
                let said = format!("{} says by how much the clock is {side}", service.name());
                let last = format!("{side} this machine's: set the wrong one right");
                eventually(&said, HEALED, async || service.log()[from..].contains(&last)).await;
            }
        }
        let _ = world.try_place("known wrong").await;

        clock.set(0).unwrap();
        world.places_again().await;
        world.is_in_state(&destroyed, "confirmed").await;
        world.balances(HEALED).await;
        for queue in [QUARANTINE.to_owned(), format!("{ORDERS_QUEUE}.dead")] {
            let depth = world.vhost.depth(&queue).await;
            assert_eq!(depth.map(|depth| depth.ready), Some(0), "{queue} after {jump} s");
        }
        assert!(self::recorded(&world).await > recorded, "{jump} s cost what was recorded");
    }
    world.audit().await;
}

/// How many rows there are of what was confirmed, of what took effect, and of what was committed.
async fn recorded(world: &World) -> i64 {
    let databases = &world.databases;
    let mut rows = 0;
    for (pool, table) in [
        (&databases.callback, "confirmation"),
        (&databases.logistics, "countersign.inbox"),
        (&databases.orders, "countersign.enlisted"),
    ] {
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(pool).await.unwrap();
        rows += count;
    }
    rows
}

#[tokio::test]
async fn each_party_s_clock_may_jump_and_nothing_is_lost() {
    let mut world = World::new().await;
    let clocks = ["orders", "logistics", "callback"].map(|name| {
        let clock = Clock::right().unwrap();
        world.service(name).on(&clock);
        (name, clock)
    });
    world.start().await;
    for (name, clock) in &clocks {
        for jump in [10 * MINUTE, -3 * DAY, 20 * YEAR] {
            let before = world.place("before").await;
            world.is_in_state(&before, "confirmed").await;
            assert!(world.logistics.terminate(GRACE).await.unwrap().success());
            let destroyed = world.place("destroyed").await;
            // Or more than one: by what a wrong clock said before, messages may be asked for too early.
            eventually("the order waits for logistics", HEALED, async || {
                world.vhost.depth(ORDERS_QUEUE).await.is_some_and(|depth| depth.ready > 0)
            })
            .await;
            world.destroy(ORDERS_QUEUE).await;

            clock.set(jump).unwrap();
            // An upstream whose clock is more than an hour off takes no order; others go on.
            let placed = world.try_place("meanwhile").await;
            let is_far_off = *name == "orders" && jump.abs() > 60 * MINUTE;
            assert_eq!(placed.is_err(), is_far_off, "{name} {jump}: {placed:?}");
            world.logistics.start().unwrap();

            clock.set(0).unwrap();
            world.places_again().await;
            world.is_in_state(&destroyed, "confirmed").await;
            world.balances(HEALED).await;
            let dead = world.vhost.depth(&format!("{ORDERS_QUEUE}.dead")).await;
            assert_eq!(dead.map(|depth| depth.ready), Some(0), "{name} {jump} s");
            // The check of a message that was not committed goes before its transaction.
            if !is_far_off {
                let quarantined = world.vhost.take(QUARANTINE, 10).await;
                assert!(quarantined.is_empty(), "{name} {jump} s: {quarantined:?}");
            }
            world.vhost.purge(QUARANTINE).await;
        }
    }
    world.audit().await;
}

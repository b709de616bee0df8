//! Releases side by side, and back again.

use countersign_testbed::SOON;
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::world::{GRACE, World};

/// Databases and queues as a release would leave them that comes after this one: with further migrations, columns
/// and other limits. Today's programs are started against them one after the other, under load.
#[tokio::test]
async fn todays_programs_start_against_what_the_next_release_has_made() {
    let world = World::running().await;
    let before = world.place_many(20).await;
    let databases = &world.databases;
    for (pool, migrations, table) in [
        (&databases.orders, "countersign._producer_migrations", "countersign.enlisted"),
        (&databases.logistics, "countersign._consumer_migrations", "countersign.inbox"),
        (&databases.callback, "_sqlx_migrations", "overdue"),
    ] {
        let next = format!(
            "INSERT INTO {migrations} (version, description, success, checksum, execution_time)
             VALUES (9999, 'of the next release', true, 'abc', 0);
             ALTER TABLE {table} ADD COLUMN of_the_next_release text NOT NULL DEFAULT 'x'"
        );
        sqlx::raw_sql(AssertSqlSafe(next)).execute(pool).await.unwrap();
    }
    for service in [&world.callback, &world.orders, &world.logistics] {
        assert!(service.terminate(GRACE).await.unwrap().success());
        if service.name() == "callback" {
            // Nothing lies in it: what is quarantined is for a person.
            world.vhost.delete_queue("countersign.quarantine").await;
            let limits = json!({ "x-max-length": 7, "x-delivery-limit": 100_000 });
            world.vhost.declare_queue("countersign.quarantine", limits).await;
            world.vhost.bind("countersign.quarantine", "countersign.quarantine", "").await;
        }
        service.start().unwrap();
        service.ready(SOON).await.unwrap();
        world.place_many(20).await;
    }
    let after = world.place_many(20).await;
    for order in before.iter().chain(&after) {
        world.is_in_state(order, "confirmed").await;
    }
    world.audit().await;
}

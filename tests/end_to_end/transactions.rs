//! The business transaction, and the moments around its commit.

use countersign_testbed::{HEALED, eventually};
use tonic::Code;

use crate::world::{World, crash_at};

#[tokio::test]
async fn most_rolled_back_orders_are_settled_without_a_call() {
    const ORDERS: usize = 300;
    let mut world = World::new().await;
    // The check delay lets a notice be recorded before its check comes due, on a slow machine, too.
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "5s").set("COUNTERSIGN_LONGEST_TRANSACTION", "2s");
    world.start().await;
    let mut rolled_back: i64 = 0;
    for n in 0..ORDERS {
        if n % 10 < 3 {
            let refused = world.try_place("   ").await.unwrap_err();
            // On a busy machine the broker may be late; then the message is not armed.
            rolled_back += i64::from(refused.code() == Code::InvalidArgument);
        } else {
            world.place("an order").await;
        }
    }
    world.checks_have_come_due().await;
    let calls: i64 =
        sqlx::query_scalar("SELECT count(*) FROM overdue_event WHERE to_state = 'asking'")
            .fetch_one(&world.databases.callback)
            .await
            .unwrap();
    println!("{ORDERS} orders, {rolled_back} rolled back: the upstream was asked {calls} times");
    assert!(rolled_back > 60 && calls * 10 <= rolled_back, "{calls} calls for {rolled_back}");
    world.audit().await;
}

#[tokio::test]
async fn a_rolled_back_order_whose_notice_is_lost_is_closed_as_never_committed() {
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_LONGEST_TRANSACTION", "2s");
    world.start().await;
    world.callback.kill();
    let refused = world.try_place("   ").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    world.destroy("countersign.rolled_back").await;
    world.callback.start().unwrap();

    world.only_overdue_row_is("never_committed").await;
    assert_eq!(world.committed_orders().await, []);
    // The audit checks that the order is not shipped either.
    world.audit().await;
}

#[tokio::test]
async fn a_transaction_still_open_when_its_check_comes_due_is_waited_for() {
    let mut world = World::new().await;
    // The id is old enough to be fenced when its check comes due: only the open transaction stands
    // in the way.
    world.orders.set("COUNTERSIGN_LONGEST_TRANSACTION", "500ms");
    world.start().await;
    let mut lock = world.databases.orders.begin().await.unwrap();
    sqlx::query("LOCK TABLE orders IN SHARE MODE").execute(&mut *lock).await.unwrap();

    let unlock = async {
        eventually("the upstream has answered that it is in progress", HEALED, async || {
            sqlx::query_scalar::<_, i64>(
                "SELECT count(*) FROM overdue_event
                 WHERE from_state = 'asking' AND to_state = 'waiting' AND resends = 0",
            )
            .fetch_one(&world.databases.callback)
            .await
            .unwrap()
                > 0
        })
        .await;
        lock.commit().await.unwrap();
    };
    let (order, ()) = tokio::join!(world.place("an order that takes its time"), unlock);

    world.is_in_state(&order, "confirmed").await;
    assert_eq!(world.shipments(&order).await, 1);
    world.audit().await;
}

#[tokio::test]
async fn a_producer_killed_between_commit_and_publish_loses_nothing() {
    let mut world = World::new().await;
    world.orders.set("FAILPOINTS", crash_at("producer.committed"));
    world.start().await;
    world.try_place("an order").await.unwrap_err();
    world.crashed_and_started_again("orders").await;

    let order = world.only_committed_order().await;
    let message = world.is_in_state(&order, "confirmed").await;
    assert!(message.resends >= 1, "it was never published before: {message:?}");
    assert_eq!(world.shipments(&order).await, 1);
    world.audit().await;
}

#[tokio::test]
async fn a_producer_killed_before_its_commit_sends_nothing() {
    let mut world = World::new().await;
    world
        .orders
        .set("FAILPOINTS", crash_at("producer.armed"))
        .set("COUNTERSIGN_LONGEST_TRANSACTION", "2s");
    world.start().await;
    world.try_place("an order").await.unwrap_err();
    world.crashed_and_started_again("orders").await;

    world.only_overdue_row_is("never_committed").await;
    world.audit().await;
}

#[tokio::test]
async fn an_unknown_tier_is_not_armed_and_nothing_is_ordered() {
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "7s");
    world.start().await;
    let refused = world.try_place("an order").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    for word in ["not armed", "tier 7s", "COUNTERSIGN_CHECK_TIERS"] {
        assert!(refused.message().contains(word), "{word:?} is missing in {:?}", refused.message());
    }
    assert_eq!(world.committed_orders().await, []);
    world.audit().await;
}

//! The whole path without a fault.

use crate::world::World;

#[tokio::test]
async fn an_order_is_shipped_once_and_confirmed_before_its_check_is_due() {
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "5s");
    world.start().await;
    let order = world.place("an order").await;
    let message = world.is_in_state(&order, "confirmed").await;
    assert_eq!(world.shipments(&order).await, 1);
    assert_eq!(message.confirms.len(), 1);
    assert_eq!(message.confirms[0].consumer, "logistics");
    assert_eq!(message.confirms[0].attempt, 1);

    world.checks_have_come_due().await;
    assert_eq!(world.overdue_orders().await, [], "a confirmed order leaves no overdue row");
    world.audit().await;
}

#[tokio::test]
async fn many_orders_at_once_are_all_shipped_once() {
    const ORDERS: usize = 200;
    let mut world = World::new().await;
    // The orders queue up behind each other, for longer than a second on a busy machine.
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "5s");
    world.start().await;
    let orders = world.place_many(ORDERS).await;
    for order in &orders {
        world.shipped(order).await;
    }
    world.checks_have_come_due().await;
    assert_eq!(world.overdue_orders().await, [], "nothing was lost, so nothing is overdue");
    world.audit().await;
}

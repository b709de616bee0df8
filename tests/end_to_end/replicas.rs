//! Several processes of one kind.

use countersign_testbed::SOON;

use crate::world::World;

#[tokio::test]
async fn two_of_each_service_share_the_work_and_ship_every_order_once() {
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_CHECK_DELAY", "5s");
    let mut more = [
        world.replica(&world.callback, "callback-2"),
        world.replica(&world.orders, "orders-2"),
        world.replica(&world.logistics, "logistics-2"),
    ];
    // Both start at the same moment, so that they migrate the same databases at the same time.
    for service in &mut more {
        service.start().unwrap();
    }
    world.start().await;
    for service in &mut more {
        service.ready(SOON).await.unwrap();
    }

    let orders = world.place_many(100).await;
    for order in &orders {
        world.is_in_state(order, "confirmed").await;
    }
    world.checks_have_come_due().await;
    assert_eq!(world.overdue_orders().await, [], "nothing was lost, so nothing is overdue");
    world.audit().await;
}

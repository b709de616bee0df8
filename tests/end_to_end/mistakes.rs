//! Mistakes that people make: they cost time, and no message.

use countersign_testbed::{HEALED, SOON, eventually};

use crate::world::{GRACE, ORDERS_QUEUE, World};

/// `COUNTERSIGN_UPSTREAMS`, with the address copied from another line.
#[tokio::test]
async fn an_address_that_leads_to_another_upstream_closes_nothing_and_heals_when_it_is_right() {
    let mut world = World::new().await;
    let mut payments = world.replica(&world.orders, "payments");
    payments.set("COUNTERSIGN_UPSTREAM_NAME", "payments");
    let address_of = |url: String| format!("orders={url}");
    world.callback.set("COUNTERSIGN_UPSTREAMS", address_of(payments.url()));
    world.start().await;
    payments.start().unwrap();
    payments.ready(SOON).await.unwrap();

    assert!(world.logistics.terminate(GRACE).await.unwrap().success());
    let order = world.place("an order").await;
    world.destroy(ORDERS_QUEUE).await;
    world.logistics.start().unwrap();
    eventually("the row says that the address leads elsewhere", HEALED, async || {
        let rows = world.overdue().await;
        match &*rows {
            [row] if row.reason.contains("upstream orders is meant; this is payments") => {
                assert_eq!((row.state.as_str(), row.resends), ("waiting", 0), "{row:?}");
                Ok(())
            }
            _ => Err(rows),
        }
    })
    .await;

    assert!(world.callback.terminate(GRACE).await.unwrap().success());
    world.callback.set("COUNTERSIGN_UPSTREAMS", address_of(world.orders.url()));
    world.callback.start().unwrap();
    world.callback.ready(HEALED).await.unwrap();
    let message = world.is_in_state(&order, "confirmed").await;
    assert_eq!(message.resends, 1, "the wrong address used no attempt: {message:?}");
    world.audit().await;
}

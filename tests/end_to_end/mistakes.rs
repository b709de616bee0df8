//! Mistakes that people make: they cost time, and no message.

use countersign_management::Method;
use countersign_testbed::{HEALED, SOON, eventually};
use tonic::Code;

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

/// Somebody deletes the exchange that orders go to. The next start of the consumer declares it.
#[tokio::test]
async fn orders_to_a_deleted_exchange_are_refused_in_words_and_taken_when_it_is_back() {
    let world = World::running().await;
    let order = world.place("an order").await;
    world.shipped(&order).await;
    let exchange = ["exchanges", world.vhost.name(), "orders"];
    world.vhost.management().call(Method::DELETE, &exchange, None).await.unwrap();
    let refused = eventually("orders says why it takes no more", SOON, async || {
        match world.try_place("into the wall").await {
            Err(status) if status.message().contains("no exchange 'orders'") => Ok(status),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    assert!(world.logistics.terminate(GRACE).await.unwrap().success());
    world.logistics.start().unwrap();
    world.logistics.ready(HEALED).await.unwrap();
    world.places_again().await;
    world.audit().await;
}

//! A message or a confirm is destroyed in the broker.

use crate::world::{CONFIRM_QUEUE, ORDERS_QUEUE, World};

#[tokio::test]
async fn a_destroyed_message_is_sent_again() {
    let world = World::running().await;
    world.logistics.kill();
    let order = world.place("an order").await;
    world.destroy(ORDERS_QUEUE).await;
    world.logistics.start().unwrap();

    let message = world.is_in_state(&order, "confirmed").await;
    assert!(message.resends >= 1, "nothing but a resend could ship it: {message:?}");
    assert_eq!(message.history.last().unwrap().to_state, "confirmed");
    assert_eq!(world.shipments(&order).await, 1);
    world.audit().await;
}

#[tokio::test]
async fn a_destroyed_confirm_is_given_again_without_a_second_effect() {
    let world = World::running().await;
    world.callback.kill();
    let order = world.place("an order").await;
    world.shipped(&order).await;
    world.destroy(CONFIRM_QUEUE).await;
    world.callback.start().unwrap();

    let message = world.is_in_state(&order, "confirmed").await;
    assert!(message.resends >= 1, "only a duplicate could confirm it again: {message:?}");
    world.is_empty(ORDERS_QUEUE).await;
    assert_eq!(world.shipments(&order).await, 1);
    assert!(world.duplicates().await >= 1, "the inbox saw the duplicate");
    world.audit().await;
}

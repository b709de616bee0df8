//! The callback service dies just after each of its steps.

use crate::world::{ORDERS_QUEUE, World, crash_at};

#[tokio::test]
async fn killed_after_recording_it_records_the_confirm_once() {
    let mut world = World::new().await;
    world.callback.set("FAILPOINTS", crash_at("callback.recorded"));
    world.start().await;
    let order = world.place("an order").await;
    world.crashed_and_started_again("callback").await;
    let message = world.is_in_state(&order, "confirmed").await;
    assert_eq!(message.confirms.len(), 1, "{message:?}");
    world.audit().await;
}

#[tokio::test]
async fn killed_after_noting_an_overdue_message_it_still_heals_it() {
    killed_at("callback.looked_up").await;
}

#[tokio::test]
async fn killed_before_asking_it_still_heals_the_message() {
    killed_at("callback.asking").await;
}

#[tokio::test]
async fn killed_before_writing_an_answer_down_it_still_heals_the_message() {
    killed_at("callback.asked").await;
}

async fn killed_at(point: &str) {
    let mut world = World::new().await;
    world.callback.set("FAILPOINTS", crash_at(point));
    world.start().await;
    world.logistics.kill();
    let order = world.place("an order").await;
    world.destroy(ORDERS_QUEUE).await;
    world.crashed_and_started_again("callback").await;
    world.logistics.start().unwrap();

    let message = world.is_in_state(&order, "confirmed").await;
    assert!(message.resends >= 1, "nothing but a resend could ship it: {message:?}");
    assert_eq!(world.shipments(&order).await, 1);
    world.audit().await;
}

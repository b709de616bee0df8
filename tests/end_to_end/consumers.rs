//! Harm that a consumer does to a message, and harm that happens to a consumer.

use countersign_protocol::grpc::request_resend_response::Outcome;
use serde_json::Value;

use countersign_testbed::SOON;

use crate::world::{ORDERS_QUEUE, World, crash_at};

#[tokio::test]
async fn duplicates_are_confirmed_again_and_have_no_second_effect() {
    let world = World::running().await;
    let order = world.place("an order").await;
    world.is_in_state(&order, "confirmed").await;
    for _ in 0..3 {
        let answer = world.request_resend(&order.message_id.to_string()).await.unwrap();
        assert_eq!(answer.outcome(), Outcome::Republished, "{}", answer.reason);
    }
    world.has_duplicates(3).await;
    assert_eq!(world.shipments(&order).await, 1);
    world.audit().await;
}

#[tokio::test]
async fn a_message_that_fails_for_ever_is_parked_and_holds_nobody_up() {
    let world = World::running().await;
    // The name fits the orders' table and no label of logistics.
    let poison = world.place(&"x".repeat(60)).await;
    let orders = world.place_many(20).await;
    for order in &orders {
        world.is_in_state(order, "confirmed").await;
    }
    let message = world.is_in_state(&poison, "parked").await;
    assert!(message.reason.contains("rejected"), "{}", message.reason);
    assert_eq!(message.resends, 0, "a consumer that retries by itself is not sent it again");
    let dead = world.vhost.peek("logistics.orders.dead", 10).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].message_id(), Some(poison.message_id.to_string().as_str()));
    let reason = dead[0].headers.get("countersign-reason").and_then(Value::as_str).unwrap();
    assert!(reason.contains("shipments_name_fits_a_label"), "{reason}");
    world.audit().await;
}

#[tokio::test]
async fn a_consumer_killed_after_its_commit_confirms_the_redelivery_without_a_second_effect() {
    killed_at("consumer.committed").await;
}

#[tokio::test]
async fn a_consumer_killed_after_its_confirm_acks_the_redelivery_without_a_second_effect() {
    killed_at("consumer.confirmed").await;
}

async fn killed_at(point: &str) {
    let mut world = World::new().await;
    world.logistics.set("FAILPOINTS", crash_at(point));
    world.start().await;
    let order = world.place("an order").await;
    world.crashed_and_started_again("logistics").await;

    world.is_in_state(&order, "confirmed").await;
    assert_eq!(world.shipments(&order).await, 1);
    assert!(world.duplicates().await >= 1, "the inbox saw the redelivery");
    world.audit().await;
}

#[tokio::test]
async fn resends_used_up_park_the_message_and_a_late_confirm_still_resolves_it() {
    let mut world = World::new().await;
    world.callback.set("COUNTERSIGN_MAX_RESENDS", "1");
    world.start().await;
    assert!(world.logistics.terminate(SOON).await.unwrap().success());
    let order = world.place("an order").await;

    let parked = world.is_in_state(&order, "parked").await;
    assert_eq!(parked.resends, 1);
    assert!(parked.reason.contains("logistics"), "names who is missing: {}", parked.reason);

    world.logistics.start().unwrap();
    let resolved = world.is_in_state(&order, "confirmed").await;
    let states: Vec<&str> = resolved.history.iter().map(|e| e.to_state.as_str()).collect();
    assert_eq!(states, ["waiting", "asking", "waiting", "parked", "confirmed"]);
    world.is_empty(ORDERS_QUEUE).await;
    assert_eq!(world.shipments(&order).await, 1);
    world.audit().await;
}

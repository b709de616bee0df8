//! Deliveries, acks, and redeliveries.

use countersign_amqp::{LinkState, PublishOutcome, Publisher, PublisherSettings};
use countersign_protocol::topology::Argument;
use countersign_testbed::{Vhost, eventually, vhost};
use serde_json::json;

use crate::support::{
    LONG, connect, consume, id, message, next, next_ids, outcome, soon, state, topology,
};

/// Publishes messages with the ids 1 to `count`.
async fn publish(vhost: &Vhost, count: usize) {
    let connection = connect(vhost.url(), "publish", topology(&[])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    for number in 1..=count {
        let message = message("open", &number.to_string());
        assert_eq!(outcome(publisher.publish(message).unwrap()).await, PublishOutcome::Routed);
    }
    connection.close().await;
}

async fn depth_becomes(vhost: &Vhost, what: &str, ready: u64, unacked: u64) {
    eventually(what, LONG, async || {
        let depth = vhost.depth("open").await.unwrap();
        if (depth.ready, depth.unacked) == (ready, unacked) { Ok(()) } else { Err(depth) }
    })
    .await;
}

fn ids(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn no_more_is_held_than_the_prefetch_and_acks_make_room() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "prefetch", topology(&[("open", &[])])).await;
    publish(&vhost, 50).await;
    let mut consumer = consume(&connection, "open", 10);
    let acks = consumer.acks();
    depth_becomes(&vhost, "ten are delivered", 40, 10).await;
    let mut held = Vec::new();
    while held.len() < 10 {
        held.extend(soon("a batch", consumer.next_batch(4)).await);
        assert!(held.len() <= 10);
    }
    assert_eq!(held.iter().map(id).collect::<Vec<_>>(), ids(1..=10));
    // Out of order, with the first one last, and one of them twice.
    for delivery in held.iter().rev().chain(&held[3..4]) {
        acks.ack(delivery.tag);
    }
    depth_becomes(&vhost, "ten more are delivered", 30, 10).await;
    assert_eq!(next_ids(&mut consumer, 10).await, ids(11..=20));
    assert_eq!(*connection.state().borrow(), LinkState::Up);
    connection.close().await;
}

#[tokio::test]
async fn acks_in_any_order_are_all_told_and_never_twice() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "any order", topology(&[("open", &[])])).await;
    publish(&vhost, 2_000).await;
    let mut states = connection.state();
    states.borrow_and_update();
    let mut consumer = consume(&connection, "open", 100);
    let acks = consumer.acks();
    let mut held = Vec::new();
    for number in 0..2_000_usize {
        held.push(next(&mut consumer).await);
        // One delivery in seven is held back until there are fifty of them.
        if number % 7 != 0 {
            acks.ack(held.pop().unwrap().tag);
        }
        if held.len() == 50 {
            held.drain(..).for_each(|delivery| acks.ack(delivery.tag));
        }
    }
    held.drain(..).for_each(|delivery| acks.ack(delivery.tag));
    depth_becomes(&vhost, "everything is acked", 0, 0).await;
    assert!(!states.has_changed().unwrap(), "the broker found nothing wrong with the acks");
    connection.close().await;
}

#[tokio::test]
async fn an_ack_from_before_a_reconnect_is_forgotten_and_the_message_comes_again() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "stale", topology(&[("open", &[])])).await;
    publish(&vhost, 3).await;
    let mut consumer = consume(&connection, "open", 10);
    let acks = consumer.acks();
    let old = [next(&mut consumer).await, next(&mut consumer).await, next(&mut consumer).await];
    eventually("the broker knows of the connection", LONG, async || {
        vhost.close_connections("stale").await == 1
    })
    .await;
    state(&connection, "lost", |s| matches!(s, LinkState::Connecting { .. })).await;
    soon("the connection to be up again", connection.ready()).await;
    let mut states = connection.state();
    states.borrow_and_update();

    let again = next(&mut consumer).await;
    assert_eq!((id(&again), again.redelivered), ("1".to_owned(), true));
    assert_ne!(again.tag, old[0].tag);
    for delivery in &old {
        acks.ack(delivery.tag);
    }
    acks.ack(again.tag);
    depth_becomes(&vhost, "only what was acked now is gone", 0, 2).await;
    for number in 2..=3 {
        let again = next(&mut consumer).await;
        assert_eq!(id(&again), number.to_string());
        acks.ack(again.tag);
    }
    depth_becomes(&vhost, "everything is acked", 0, 0).await;
    assert!(!states.has_changed().unwrap(), "the broker found nothing wrong with the acks");
    connection.close().await;
}

#[tokio::test]
async fn close_tells_the_acks_and_returns_the_rest() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "closing", topology(&[("open", &[])])).await;
    publish(&vhost, 20).await;
    let mut consumer = consume(&connection, "open", 10);
    let acks = consumer.acks();
    for _ in 0..5 {
        acks.ack(next(&mut consumer).await.tag);
    }
    let held = next(&mut consumer).await;
    soon("the consumer to close", consumer.close()).await;
    acks.ack(held.tag);
    depth_becomes(&vhost, "five are gone, the rest is back", 15, 0).await;
    eventually("there is no consumer any more", LONG, async || vhost.consumers("open").await == 0)
        .await;
    connection.close().await;
}

#[tokio::test]
async fn what_a_closed_single_active_consumer_held_comes_first_and_in_order() {
    for dropped in [false, true] {
        let vhost = vhost().await;
        let single = [("x-single-active-consumer", Argument::Boolean(true))];
        let first = connect(vhost.url(), "first", topology(&[("open", &single)])).await;
        let second = connect(vhost.url(), "second", topology(&[])).await;
        publish(&vhost, 30).await;
        let mut active = consume(&first, "open", 10);
        assert_eq!(next_ids(&mut active, 10).await, ids(1..=10));
        let mut waiting = consume(&second, "open", 30);
        eventually("the second waits behind the first", LONG, async || {
            let consumers = vhost.consumers("open").await;
            if consumers == 2 { Ok(()) } else { Err(consumers) }
        })
        .await;
        if dropped {
            drop(active);
        } else {
            soon("the first to close", active.close()).await;
        }
        assert_eq!(next_ids(&mut waiting, 30).await, ids(1..=30), "dropped: {dropped}");
        first.close().await;
        second.close().await;
    }
}

#[tokio::test]
async fn a_consumer_whose_queue_is_deleted_subscribes_to_the_one_that_is_declared_anew() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "deleted", topology(&[("open", &[])])).await;
    publish(&vhost, 1).await;
    let mut consumer = consume(&connection, "open", 10);
    let acks = consumer.acks();
    acks.ack(next(&mut consumer).await.tag);
    depth_becomes(&vhost, "it is acked", 0, 0).await;
    vhost.delete_queue("open").await;
    // The application looks for the next delivery, as always: it sees the end of the subscription
    // there.
    let next_one = tokio::spawn(async move {
        let delivery = next(&mut consumer).await;
        (delivery, consumer)
    });
    eventually("the queue is there again", LONG, async || vhost.depth("open").await).await;
    publish(&vhost, 1).await;
    let (delivery, consumer) = soon("the delivery", next_one).await.unwrap();
    assert_eq!((id(&delivery), delivery.redelivered), ("1".to_owned(), false));
    soon("the consumer to close", consumer.close()).await;
    connection.close().await;
}

#[tokio::test]
async fn a_queue_that_is_not_there_yet_is_waited_for() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "early", topology(&[])).await;
    let mut consumer = consume(&connection, "open", 10);
    state(
        &connection,
        "refused",
        |state| matches!(state, LinkState::Connecting { why } if why.contains("no queue 'open'")),
    )
    .await;
    vhost.declare_queue("open", json!({})).await;
    vhost.publish("", "open", json!({ "message_id": "1" }), b"{}").await;
    assert_eq!(id(&next(&mut consumer).await), "1");
    connection.close().await;
}

#[tokio::test]
async fn next_ends_when_the_connection_is_closed() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "ends", topology(&[("open", &[])])).await;
    let mut consumer = consume(&connection, "open", 10);
    let waiting = tokio::spawn(async move {
        let last = consumer.next().await;
        (last, consumer.next_batch(10).await)
    });
    eventually("it consumes", LONG, async || vhost.consumers("open").await == 1).await;
    connection.close().await;
    assert_eq!(soon("next to end", waiting).await.unwrap(), (None, Vec::new()));
}

#[tokio::test]
async fn what_other_clients_wrote_is_read() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "others", topology(&[("open", &[])])).await;
    let properties = json!({
        "message_id": "an id", "type": "a kind", "content_type": "application/json",
        "app_id": "somebody", "timestamp": 1_700_000_000,
        "headers": { "countersign-attempt": 2, "traceparent": "00-a-b-01", "X-Own": "y",
            "x-brokers": "z" },
    });
    vhost.publish("x", "open", properties, b"{\"a\":1}").await;
    let delivery = next(&mut consume(&connection, "open", 1)).await;
    assert_eq!((delivery.exchange.as_str(), delivery.key.as_str()), ("x", "open"));
    assert_eq!(&delivery.body[..], b"{\"a\":1}");
    let properties = delivery.properties;
    assert_eq!(properties.message_id.as_deref(), Some("an id"));
    assert_eq!(properties.kind.as_deref(), Some("a kind"));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties.app_id.as_deref(), Some("somebody"));
    assert_eq!(properties.timestamp, Some(1_700_000_000));
    assert_eq!(properties.headers.integer("countersign-attempt"), Some(2));
    assert_eq!(properties.headers.text("traceparent"), Some("00-a-b-01"));
    assert_eq!(properties.headers.text("X-Own"), Some("y"));
    assert_eq!(properties.headers.iter().count(), 3, "what begins with x- is the broker's");
    connection.close().await;
}

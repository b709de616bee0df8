//! The broker has no memory or no disk left, and takes no messages.

use std::time::Duration;

use countersign_amqp::{LinkState, NotTaken, PublishOutcome, Publisher, PublisherSettings};
use countersign_testbed::{Broker, BrokerSettings, Vhost, eventually};

use crate::support::{LONG, connect, consume, id, message, next, outcome, soon, state, topology};

fn is_blocked(state: &LinkState) -> bool {
    matches!(state, LinkState::Blocked { .. })
}

#[tokio::test]
async fn while_the_broker_blocks_nothing_is_taken_and_consumers_still_ack() {
    let broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let vhost = Vhost::create(broker.address()).await.unwrap();
    let topology = topology(&[("open", &[])]);
    let publishing = connect(vhost.url(), "publishing", topology.clone()).await;
    let consuming = connect(vhost.url(), "consuming", topology).await;
    let confirm_timeout = Duration::from_millis(300);
    let settings = PublisherSettings { confirm_timeout, ..PublisherSettings::default() };
    let publisher = Publisher::start(&publishing, settings);
    for number in 0..10 {
        let message = message("open", &number.to_string());
        assert_eq!(outcome(publisher.publish(message).unwrap()).await, PublishOutcome::Routed);
    }

    // RabbitMQ blocks a connection when it publishes. The messages sent by then get an outcome in
    // time, and do not end the connection: the next one would be blocked as well.
    broker.memory_alarm(true).await.unwrap();
    let stuck = publisher.publish(message("open", "stuck")).unwrap();
    state(&publishing, "blocked", is_blocked).await;
    let stuck = outcome(stuck).await;
    assert!(matches!(stuck, PublishOutcome::Unknown { .. }), "{stuck:?}");
    let away = publisher.publish(message("open", "x")).unwrap_err();
    assert!(matches!(&away, NotTaken::Away { why } if why.contains("memory")), "{away:?}");
    let mut states = publishing.state();
    assert!(is_blocked(&states.borrow_and_update()));

    let mut consumer = consume(&consuming, "open", 5);
    let acks = consumer.acks();
    for number in 0..10 {
        let delivery = next(&mut consumer).await;
        assert_eq!(id(&delivery), number.to_string());
        acks.ack(delivery.tag);
    }
    eventually("everything is acked", LONG, async || {
        let depth = vhost.depth("open").await.unwrap();
        if depth.total() == 0 { Ok(()) } else { Err(depth) }
    })
    .await;

    broker.memory_alarm(false).await.unwrap();
    soon("the broker to unblock", states.changed()).await.unwrap();
    assert_eq!(*states.borrow_and_update(), LinkState::Up, "the connection was not built anew");
    for id in ["after", "and after"] {
        let pending = publisher.publish(message("open", id)).unwrap();
        assert_eq!(outcome(pending).await, PublishOutcome::Routed);
    }
    assert!(!states.has_changed().unwrap());
    assert_eq!(id(&next(&mut consumer).await), "stuck", "sent in the end, after its outcome");
    publishing.close().await;
    consuming.close().await;
}

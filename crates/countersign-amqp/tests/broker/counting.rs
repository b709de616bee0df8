//! What a queue says of itself, and what asking costs.

use countersign_amqp::{Consumer, QueueCount, Subscription};
use countersign_testbed::vhost;

use crate::support::{connect, soon, topology};

#[tokio::test]
async fn a_queue_that_is_gone_costs_a_channel_and_not_the_connection() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "asking", topology(&[("there", &[])])).await;
    let subscription = Subscription { queue: "there".to_owned(), prefetch: 1, priority: None };
    let mut consumer = Consumer::start(&connection, subscription);
    let mut state = connection.state();
    state.mark_unchanged();
    for _ in 0..20 {
        assert_eq!(soon("an answer", connection.count("gone")).await.unwrap(), None);
        let count = soon("an answer", connection.count("there")).await.unwrap();
        assert!(count.is_some_and(|count| count.ready <= 1), "{count:?}");
    }
    vhost.publish("x", "there", serde_json::json!({}), b"still here").await;
    let delivery = soon("a delivery", consumer.next()).await.unwrap();
    assert_eq!(delivery.body, b"still here"[..]);
    assert!(!state.has_changed().unwrap(), "the connection has lived all the time");
    consumer.close().await;
    connection.close().await;
}

#[tokio::test]
async fn who_holds_a_message_counts_and_an_empty_queue_without_consumers_may_be_no_answer() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "counting", topology(&[("q", &[])])).await;
    let count = async || soon("an answer", connection.count("q")).await.unwrap().unwrap();
    let none = count().await;
    assert_eq!(none, QueueCount { ready: 0, consumers: 0 });
    assert!(none.may_be_no_answer());
    let subscription = Subscription { queue: "q".to_owned(), prefetch: 1, priority: None };
    let mut consumer = Consumer::start(&connection, subscription);
    for body in [b"1", b"2"] {
        vhost.publish("x", "q", serde_json::json!({}), body).await;
    }
    soon("a delivery", consumer.next()).await.unwrap();
    let one = count().await;
    assert_eq!(one, QueueCount { ready: 1, consumers: 1 });
    assert!(!one.may_be_no_answer());
    consumer.close().await;
    connection.close().await;
}

//! What a consumer and its queue hold.

use std::time::Duration;

use countersign_amqp::{Connection, Consumer, GaugeReading, Subscription};
use countersign_testbed::{Vhost, eventually, vhost};

use crate::support::{LONG, connect, soon, topology};

const SLOW_AFTER: Duration = Duration::from_secs(3_600);

async fn consuming(vhost: &Vhost, prefetch: u16, messages: usize) -> (Connection, Consumer) {
    let connection = connect(vhost.url(), "gauging", topology(&[("q", &[])])).await;
    for number in 0..messages {
        let body = number.to_string();
        vhost.publish("x", "q", serde_json::json!({}), body.as_bytes()).await;
    }
    let subscription = Subscription { queue: "q".to_owned(), prefetch, priority: None };
    let consumer = Consumer::start(&connection, subscription);
    (connection, consumer)
}

/// A reading that says so.
async fn reads(
    consumer: &Consumer,
    what: &str,
    is: impl Fn(&GaugeReading) -> bool,
) -> GaugeReading {
    let gauge = consumer.gauge();
    eventually(what, LONG, async || match gauge.read(SLOW_AFTER, 100).await {
        Ok(reading) if is(&reading) => Ok(reading),
        other => Err(other),
    })
    .await
}

#[tokio::test]
async fn the_gauge_counts_what_the_client_holds() {
    let vhost = vhost().await;
    let (connection, mut consumer) = consuming(&vhost, 5, 7).await;
    // The application has not read a single one.
    let five = |reading: &GaugeReading| reading.taken == 5 && reading.ready == 2;
    let reading = reads(&consumer, "five are taken, two are ready", five).await;
    assert_eq!((reading.consumers, reading.done), (1, 0), "{reading:?}");
    let acks = consumer.acks();
    for _ in 0..7 {
        acks.ack(soon("a delivery", consumer.next()).await.unwrap().tag);
    }
    let reading = reads(&consumer, "all have ended", |reading| reading.done == 7).await;
    assert_eq!((reading.ready, reading.consumers, reading.taken), (0, 1, 7), "{reading:?}");
    consumer.close().await;
    connection.close().await;
}

#[tokio::test]
async fn what_is_acked_early_is_in_hand_until_it_is_done() {
    let vhost = vhost().await;
    let (connection, mut consumer) = consuming(&vhost, 5, 1).await;
    let (acks, tag) = (consumer.acks(), soon("a delivery", consumer.next()).await.unwrap().tag);
    acks.ack_early(tag);
    eventually("it is acked", LONG, async || vhost.acked("q").await == 1).await;
    let reading = reads(&consumer, "one is taken", |_| true).await;
    assert_eq!((reading.taken, reading.done), (1, 0), "{reading:?}");
    acks.done(tag);
    reads(&consumer, "it has ended", |reading| reading.done == 1).await;
    consumer.close().await;
    connection.close().await;
}

#[tokio::test]
async fn a_round_trip_changes_no_prefetch_and_another_subscription_is_another_session() {
    let vhost = vhost().await;
    let (connection, mut consumer) = consuming(&vhost, 2, 9).await;
    let reading = reads(&consumer, "two are taken", |reading| reading.taken == 2).await;
    let acks = consumer.acks();
    for _ in 0..3 {
        acks.ack(soon("a delivery", consumer.next()).await.unwrap().tag);
    }
    // What leaves the queue after the count is taken all the same.
    let five = |reading: &GaugeReading| reading.taken == 5 && reading.ready == 4;
    let later = reads(&consumer, "five are taken, four are ready", five).await;
    assert_eq!((later.done, later.session), (3, reading.session), "{later:?}");
    eventually("the broker has closed the connection", LONG, async || {
        vhost.close_connections("gauging").await >= 1
    })
    .await;
    let anew = reads(&consumer, "a new session", |anew| anew.session != later.session).await;
    assert!(anew.taken <= 2 && anew.done == 0, "{anew:?}");
    consumer.close().await;
    connection.close().await;
}

//! Reading a queue and taking chosen messages out of it.

use countersign_amqp::{Browser, Connection, PublishOutcome, Publisher, PublisherSettings};
use countersign_protocol::topology::Argument;
use countersign_testbed::eventually;

use crate::support::{LONG, connect, id, message, outcome, soon, topology};

/// More than a quorum queue lets one consumer hold.
const MANY: usize = 4_500;

async fn filled(url: &str, count: usize) {
    let limit = [("x-delivery-limit", Argument::Integer(1_000))];
    let connection = connect(url, "filling", topology(&[("q", &limit)])).await;
    let settings = PublisherSettings { channels: 1, ..PublisherSettings::default() };
    let publisher = Publisher::start(&connection, settings);
    // The first message proves the exchange; from then on a single channel keeps the order.
    for some in [0..count.min(1), 1..count.max(1)] {
        let publish = |n| publisher.publish(message("q", &format!("{n:05}"))).unwrap();
        for pending in some.map(publish).collect::<Vec<_>>() {
            assert_eq!(outcome(pending).await, PublishOutcome::Routed);
        }
    }
    connection.close().await;
}

/// Opens a reader once so much is ready. No reader counts meanwhile: one that is dropped returns what
/// it got in another order.
async fn holding(connection: &Connection, count: usize) -> Browser {
    let all = u32::try_from(count).unwrap();
    eventually(&format!("{count} are back"), LONG, async || {
        let ready = connection.count("q").await.unwrap().map(|count| count.ready);
        if ready == Some(all) { Ok(()) } else { Err(ready) }
    })
    .await;
    Browser::open(connection, "q").await.unwrap()
}

/// The ids of all messages, in order.
async fn read(browser: &mut Browser) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some(browsed) = soon("the next message", browser.next()).await.unwrap() {
        ids.push(id(&browsed.delivery));
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_returns_in_its_order_but_for_what_was_taken() {
    let vhost = countersign_testbed::vhost().await;
    filled(vhost.url(), MANY).await;
    let connection = connect(vhost.url(), "reading", topology(&[])).await;
    let mut browser = Browser::open(&connection, "q").await.unwrap();
    assert_eq!((browser.ready(), browser.other_readers()), (4_500, 0));
    let mut all = Vec::new();
    while let Some(browsed) = soon("the next message", browser.next()).await.unwrap() {
        assert_eq!(browsed.dead_letter, None);
        all.push((id(&browsed.delivery), browsed.delivery.tag));
    }
    assert_eq!(all.len(), MANY);
    assert!(all.is_sorted_by_key(|(id, _)| id.clone()), "in the queue's order");
    for (_, tag) in all.iter().step_by(3) {
        browser.take(*tag).await.unwrap();
    }
    browser.close().await.unwrap();

    let left: Vec<_> =
        all.iter().enumerate().filter(|(n, _)| n % 3 != 0).map(|(_, (id, _))| id.clone()).collect();
    let mut browser = holding(&connection, left.len()).await;
    assert_eq!(read(&mut browser).await, left);
    browser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_in_the_middle_has_taken_nothing_else() {
    let vhost = countersign_testbed::vhost().await;
    filled(vhost.url(), 10).await;
    let connection = connect(vhost.url(), "reading", topology(&[])).await;
    let mut browser = Browser::open(&connection, "q").await.unwrap();
    let first = browser.next().await.unwrap().unwrap();
    assert_eq!(id(&first.delivery), "00000");
    browser.next().await.unwrap().unwrap();
    connection.close().await;
    assert!(browser.take(first.delivery.tag).await.is_err(), "the connection is gone");

    let connection = connect(vhost.url(), "reading again", topology(&[])).await;
    let mut browser = holding(&connection, 10).await;
    let all: Vec<_> = (0..10).map(|n| format!("{n:05}")).collect();
    assert_eq!(read(&mut browser).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_empty_or_missing_is_told_apart() {
    let vhost = countersign_testbed::vhost().await;
    filled(vhost.url(), 0).await;
    let connection = connect(vhost.url(), "reading", topology(&[])).await;
    let mut browser = Browser::open(&connection, "q").await.unwrap();
    assert_eq!(browser.next().await.unwrap(), None);
    let error = Browser::open(&connection, "nowhere").await.unwrap_err().to_string();
    assert!(error.contains("NOT_FOUND"), "{error}");
}

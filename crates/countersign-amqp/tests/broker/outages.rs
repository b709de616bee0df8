//! Connections that break, for each hop: before the broker had the message, and after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_amqp::{
    Connection, LinkState, NotTaken, PublishOutcome, Publisher, PublisherSettings,
};
use countersign_testbed::{Conduct, Proxy, Vhost, eventually, vhost};

use crate::support::{LONG, connect, drain, message, outcome, soon, state, topology};

const AT_ONCE: Conduct = Conduct::Forward { after: Duration::ZERO };

/// A connection to the vhost by way of a proxy.
async fn through_proxy(vhost: &Vhost, name: &str) -> (Connection, Proxy) {
    let url = vhost.url();
    let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()).unwrap();
    let proxy = Proxy::start(format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap();
    let url = url.replace(&format!(":{port}/"), &format!(":{}/", proxy.address().port()));
    (connect(&url, name, topology(&[("open", &[])])).await, proxy)
}

fn publish_all(publisher: &Publisher, count: usize) -> Vec<countersign_amqp::Pending> {
    (0..count)
        .map(|number| publisher.publish(message("open", &number.to_string())).unwrap())
        .collect()
}

#[tokio::test]
async fn lost_before_the_broker_had_it_is_unknown_and_goes_through_again() {
    let vhost = vhost().await;
    let (connection, proxy) = through_proxy(&vhost, "lost before").await;
    // Of a hundred messages, ten leave and the others wait for their turn.
    let settings = PublisherSettings { channels: 1, max_batch: 10, ..PublisherSettings::default() };
    let publisher = Publisher::start(&connection, settings);
    assert_eq!(outcome(publish_all(&publisher, 1).remove(0)).await, PublishOutcome::Routed);
    assert_eq!(drain(&vhost, "open").await.len(), 1);

    proxy.conduct(Conduct::Silence);
    let pending = publish_all(&publisher, 100);
    tokio::task::yield_now().await;
    proxy.conduct(Conduct::Cut);
    for pending in pending {
        let outcome = outcome(pending).await;
        assert!(matches!(outcome, PublishOutcome::Unknown { .. }), "{outcome:?}");
    }
    let away = publisher.publish(message("open", "x")).unwrap_err();
    assert!(matches!(away, NotTaken::Away { .. }), "{away:?}");
    assert!(drain(&vhost, "open").await.is_empty());

    proxy.conduct(AT_ONCE);
    soon("the connection to be up again", connection.ready()).await;
    for pending in publish_all(&publisher, 100) {
        assert_eq!(outcome(pending).await, PublishOutcome::Routed);
    }
    connection.close().await;
    assert_eq!(drain(&vhost, "open").await.len(), 100);
}

#[tokio::test]
async fn lost_after_the_broker_had_it_is_unknown_too() {
    let vhost = vhost().await;
    let (connection, proxy) = through_proxy(&vhost, "lost after").await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    assert_eq!(outcome(publish_all(&publisher, 1).remove(0)).await, PublishOutcome::Routed);

    // The confirms stay on their way long enough for the proxy to cut them off: the broker's figures
    // lag behind by seconds.
    proxy.conduct(Conduct::Forward { after: Duration::from_secs(10) });
    let pending = publish_all(&publisher, 100);
    eventually("the broker has the messages", LONG, async || {
        let depth = vhost.depth("open").await.unwrap().total();
        if depth == 101 { Ok(()) } else { Err(depth) }
    })
    .await;
    proxy.conduct(Conduct::Cut);
    for pending in pending {
        let outcome = outcome(pending).await;
        assert!(matches!(outcome, PublishOutcome::Unknown { .. }), "{outcome:?}");
    }
    proxy.conduct(AT_ONCE);
    soon("the connection to be up again", connection.ready()).await;
    for pending in publish_all(&publisher, 100) {
        assert_eq!(outcome(pending).await, PublishOutcome::Routed);
    }
    connection.close().await;
    let ids = drain(&vhost, "open").await;
    assert_eq!(ids.len(), 100, "the same ids again");
    assert_eq!(ids.values().sum::<usize>(), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_with_the_connection_killed_twice_nothing_routed_is_missing() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "killed", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let enough = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let load = (publisher.clone(), connection.clone(), Arc::clone(&enough));
            tokio::spawn(publish_until(load, task))
        })
        .collect();
    for _ in 0..2 {
        eventually("the broker knows of the connection", LONG, async || {
            vhost.close_connections("killed").await == 1
        })
        .await;
        state(&connection, "lost", |s| matches!(s, LinkState::Connecting { .. })).await;
        soon("up again", connection.ready()).await;
    }
    enough.store(true, Ordering::Relaxed);
    let (mut routed, mut unknown) = (0, 0);
    for task in tasks {
        let told = soon("all to be published", task).await.unwrap();
        routed += told.0;
        unknown += told.1;
    }
    assert!(unknown > 0, "nothing was on its way when the connection was killed");
    connection.close().await;
    assert_eq!(drain(&vhost, "open").await.len(), routed);
}

/// Publishes message after message, each until it is routed. Returns how many, and how many
/// outcomes were unknown.
async fn publish_until(
    (publisher, connection, enough): (Publisher, Connection, Arc<AtomicBool>),
    task: usize,
) -> (usize, usize) {
    let (mut routed, mut unknown) = (0, 0);
    while !enough.load(Ordering::Relaxed) {
        let id = format!("{task}-{routed}");
        loop {
            match publisher.publish(message("open", &id)) {
                Ok(pending) => match outcome(pending).await {
                    PublishOutcome::Routed => break,
                    PublishOutcome::Unknown { .. } => unknown += 1,
                    other => panic!("{other:?}"),
                },
                Err(NotTaken::Away { .. }) => soon("up again", connection.ready()).await,
                Err(other) => panic!("{other:?}"),
            }
        }
        routed += 1;
    }
    (routed, unknown)
}

#[tokio::test]
async fn a_confirm_that_never_comes_is_unknown_in_time_and_the_connection_is_built_anew() {
    let vhost = vhost().await;
    let (connection, proxy) = through_proxy(&vhost, "silent").await;
    let confirm_timeout = Duration::from_millis(300);
    let settings = PublisherSettings { confirm_timeout, ..PublisherSettings::default() };
    let publisher = Publisher::start(&connection, settings);
    assert_eq!(outcome(publish_all(&publisher, 1).remove(0)).await, PublishOutcome::Routed);

    proxy.conduct(Conduct::Silence);
    let asked = std::time::Instant::now();
    let PublishOutcome::Unknown { why } = outcome(publish_all(&publisher, 1).remove(0)).await
    else {
        panic!("the broker did not answer");
    };
    assert!(why.starts_with("no confirm of 1 of 1 messages within 300ms"), "{why}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    state(&connection, "given up", |s| matches!(s, LinkState::Connecting { .. })).await;

    proxy.conduct(AT_ONCE);
    soon("the connection to be up again", connection.ready()).await;
    assert_eq!(outcome(publish_all(&publisher, 1).remove(0)).await, PublishOutcome::Routed);
    connection.close().await;
}

#[tokio::test]
async fn a_publisher_that_cannot_finish_is_closed_at_its_deadline() {
    let vhost = vhost().await;
    let (connection, proxy) = through_proxy(&vhost, "stuck").await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    assert_eq!(outcome(publish_all(&publisher, 1).remove(0)).await, PublishOutcome::Routed);
    proxy.conduct(Conduct::Silence);
    let pending = publish_all(&publisher, 10);
    soon("the publisher to close", publisher.close(Duration::from_millis(100))).await;
    for pending in pending {
        let outcome = outcome(pending).await;
        assert!(matches!(outcome, PublishOutcome::Unknown { .. }), "{outcome:?}");
    }
    soon("the connection to close", connection.close()).await;
    assert_eq!(*connection.state().borrow(), LinkState::Closed);
}

//! Entries that share messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_amqp::{
    Batcher, BatcherSettings, LinkState, NotTaken, OnFailure, Outgoing, Properties, PublishOutcome,
    Publisher, PublisherSettings,
};
use countersign_protocol::envelope::MAX_BODY_BYTES;
use countersign_testbed::{Broker, BrokerSettings, Vhost, vhost};

use crate::support::{LONG, connect, outcome, soon, state, topology};

/// Entries are numbers, a message is lines of numbers, and all go to one queue.
fn pack(entries: &[usize]) -> Outgoing {
    let lines: Vec<_> = entries.iter().map(usize::to_string).collect();
    Outgoing {
        exchange: "x".to_owned(),
        key: "open".to_owned(),
        properties: Properties::default(),
        body: lines.join("\n").into(),
    }
}

/// How often each number is in the queue, and in how many messages.
async fn drain(vhost: &Vhost) -> (BTreeMap<usize, usize>, usize) {
    let (mut numbers, mut messages) = (BTreeMap::new(), 0);
    loop {
        let taken = vhost.take("open", 1_000).await;
        if taken.is_empty() {
            return (numbers, messages);
        }
        messages += taken.len();
        for message in taken {
            for line in String::from_utf8(message.body).unwrap().lines() {
                *numbers.entry(line.parse().unwrap()).or_default() += 1;
            }
        }
    }
}

#[tokio::test]
async fn one_leaves_at_once_and_what_arrives_meanwhile_leaves_together() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "batches", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let batcher = Batcher::start(publisher, BatcherSettings::default(), pack);
    assert_eq!(outcome(batcher.submit(0).unwrap()).await, PublishOutcome::Routed);
    let pending: Vec<_> = (1..=2_500).map(|entry| batcher.submit(entry).unwrap()).collect();
    for pending in pending {
        assert_eq!(outcome(pending).await, PublishOutcome::Routed);
    }
    batcher.close(LONG).await;
    assert_eq!(batcher.submit(1).unwrap_err(), NotTaken::Closed);
    connection.close().await;
    let (numbers, messages) = drain(&vhost).await;
    assert_eq!(numbers.len(), 2_501);
    assert!(numbers.values().all(|times| *times == 1));
    assert_eq!(messages, 1 + 3, "2,500 entries leave as 1,000, 1,000 and 500");
}

#[tokio::test]
async fn entries_get_the_verdict_of_their_message_and_none_are_taken_while_away() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "reports", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let nowhere = |entries: &[usize]| Outgoing { key: "nowhere".to_owned(), ..pack(entries) };
    let batcher = Batcher::start(publisher, BatcherSettings::default(), nowhere);
    for pending in [batcher.submit(1).unwrap(), batcher.submit(2).unwrap()] {
        assert!(matches!(outcome(pending).await, PublishOutcome::Unroutable { .. }));
    }
    connection.close().await;
    assert!(matches!(batcher.submit(3).unwrap_err(), NotTaken::Away { .. }));
}

#[tokio::test]
async fn a_message_that_is_too_large_is_packed_in_halves() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "halves", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let packed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&packed);
    // Each line takes a fifth of what a body may have; 13 lines are more than one body.
    let large = move |entries: &[usize]| {
        count.fetch_add(1, Ordering::Relaxed);
        let line = |entry: &usize| {
            let length = if *entry == 13 { MAX_BODY_BYTES + 1 } else { MAX_BODY_BYTES / 5 };
            format!("{}{entry}", "0".repeat(length))
        };
        let lines: Vec<_> = entries.iter().map(line).collect();
        Outgoing { body: lines.join("\n").into(), ..pack(&[]) }
    };
    let batcher = Batcher::start(publisher, BatcherSettings::default(), large);
    // No other task runs between these calls, so all entries leave together.
    let pending: Vec<_> = (1..=20).map(|entry| (entry, batcher.submit(entry).unwrap())).collect();
    for (entry, pending) in pending {
        let outcome = outcome(pending).await;
        if entry == 13 {
            assert!(
                matches!(&outcome, PublishOutcome::Unroutable { why } if why.contains("bytes"))
            );
        } else {
            assert_eq!(outcome, PublishOutcome::Routed, "{entry}");
        }
    }
    connection.close().await;
    let (numbers, messages) = drain(&vhost).await;
    assert_eq!(
        numbers.into_keys().collect::<Vec<_>>(),
        (1..=20).filter(|e| *e != 13).collect::<Vec<_>>()
    );
    assert!(messages < packed.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_keeps_trying_loses_nothing_when_the_broker_is_killed_and_comes_back() {
    let mut broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let vhost = Vhost::create(broker.address()).await.unwrap();
    let connection = connect(vhost.url(), "keeps trying", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let settings = BatcherSettings {
        on_failure: OnFailure::KeepTrying,
        max_waiting: 30_000,
        ..BatcherSettings::default()
    };
    let batcher = Batcher::start(publisher, settings, pack);
    assert_eq!(outcome(batcher.submit(0).unwrap()).await, PublishOutcome::Routed);
    broker.settle().await.unwrap();

    let mut pending: Vec<_> = (1..5_000).map(|entry| batcher.submit(entry).unwrap()).collect();
    tokio::task::yield_now().await;
    broker.kill();
    pending.extend((5_000..10_000).map(|entry| batcher.submit(entry).unwrap()));
    state(&connection, "lost", |s| matches!(s, LinkState::Connecting { .. })).await;
    pending.extend((10_000..30_000).map(|entry| batcher.submit(entry).unwrap()));
    for entry in 30_000..31_000 {
        if let Err(full) = batcher.submit(entry) {
            assert_eq!(full, NotTaken::Overloaded);
        }
    }
    broker.restart().await.unwrap();
    for pending in pending {
        assert_eq!(outcome(pending).await, PublishOutcome::Routed);
    }
    soon("the batcher to finish", batcher.close(LONG)).await;
    connection.close().await;
    let (numbers, _) = drain(&vhost).await;
    let missing: Vec<_> = (0..30_000).filter(|entry| !numbers.contains_key(entry)).collect();
    assert_eq!(missing, [] as [usize; 0]);
}

#[tokio::test]
async fn one_that_keeps_trying_ends_with_its_deadline_or_its_connection() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "gives up", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let settings = BatcherSettings { on_failure: OnFailure::KeepTrying, ..Default::default() };
    let nowhere = |entries: &[usize]| Outgoing { key: "nowhere".to_owned(), ..pack(entries) };

    let batcher = Batcher::start(publisher.clone(), settings, nowhere);
    let pending = batcher.submit(1).unwrap();
    soon("the batcher to close", batcher.close(Duration::from_millis(100))).await;
    assert!(matches!(outcome(pending).await, PublishOutcome::Unknown { .. }));

    let batcher = Batcher::start(publisher, settings, nowhere);
    let pending = batcher.submit(1).unwrap();
    connection.close().await;
    assert_ne!(outcome(pending).await, PublishOutcome::Routed);
}

#[tokio::test]
async fn a_pack_that_panics_leaves_nobody_waiting() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "panics", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let batcher = Batcher::start(publisher, BatcherSettings::default(), |_: &[usize]| {
        panic!("as the test wants it")
    });
    assert!(matches!(outcome(batcher.submit(1).unwrap()).await, PublishOutcome::Unknown { .. }));
    assert_eq!(batcher.submit(2).unwrap_err(), NotTaken::Closed);
    connection.close().await;
}

//! Each caller gets the outcome of its own message, whatever becomes of the others.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_amqp::{
    NotTaken, Outgoing, Properties, PublishOutcome, Publisher, PublisherSettings,
};
use countersign_protocol::envelope::MAX_BODY_BYTES;
use countersign_protocol::topology::{Argument, Topology};
use countersign_testbed::vhost;
use futures_util::FutureExt as _;
use tokio::task::coop::unconstrained;

use crate::support::{LONG, connect, drain, message, outcome, topology};

const TASKS: usize = 48;
const MESSAGES_PER_TASK: usize = 500;
/// How many messages a task has on their way at a time.
const IN_FLIGHT: usize = 100;

/// Half of all messages go to the full queue.
const HALF_REFUSED: [&str; 16] = [
    "full", "open", "full", "nowhere", "full", "both", "full", "full", "open", "nowhere", "full",
    "full", "open", "full", "nowhere", "open",
];
/// Without a refusal in between, the broker confirms many messages with one frame; the client then
/// attaches returned messages to any of them.
const HALF_UNROUTABLE: [&str; 4] = ["open", "nowhere", "nowhere", "open"];

/// A published message, and its outcome.
struct Told {
    key: &'static str,
    id: String,
    outcomes: Vec<PublishOutcome>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_24_000_messages_half_of_them_refused_each_gets_its_own_verdict() {
    let counts = publish_and_check(PublisherSettings::default(), &HALF_REFUSED).await;
    let total: usize = counts.values().sum();
    assert!(total >= 24_000, "{counts:?}");
    assert!(counts["Refused"] * 5 >= total * 2, "the queue was full most of the time: {counts:?}");
    assert!(counts["Unroutable"] * 10 >= total, "{counts:?}");
    assert!(counts["Routed"] * 10 >= total, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_24_000_messages_half_of_them_unroutable_each_gets_its_own_verdict() {
    let settings = PublisherSettings { channels: 1, max_batch: 10_000, ..Default::default() };
    let counts = publish_and_check(settings, &HALF_UNROUTABLE).await;
    let total: usize = counts.values().sum();
    assert!(total >= 24_000, "{counts:?}");
    assert!(counts["Unroutable"] * 5 >= total * 2, "{counts:?}");
    assert!(counts["Routed"] * 5 >= total * 2, "{counts:?}");
}

/// Publishes to these keys in a mixed order, from many tasks at once, and compares each outcome
/// with the queues' content. Returns how often each kind of outcome was given.
async fn publish_and_check(
    settings: PublisherSettings,
    keys: &'static [&'static str],
) -> BTreeMap<String, usize> {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "outcomes", open_and_full()).await;
    let publisher = Publisher::start(&connection, settings);
    fill(&publisher).await;
    let tasks: Vec<_> =
        (0..TASKS).map(|task| tokio::spawn(publish_mixed(publisher.clone(), task, keys))).collect();
    let mut told = Vec::new();
    for task in tasks {
        told.extend(task.await.unwrap());
    }
    publisher.close(LONG).await;
    connection.close().await;

    let open = drain(&vhost, "open").await;
    let full = drain(&vhost, "full").await;
    let wrong: Vec<_> = told
        .iter()
        .filter_map(|told| {
            let found = |queue: &BTreeMap<String, usize>| queue.get(&told.id).copied().unwrap_or(0);
            let (open, full) = (found(&open), found(&full));
            let right = told.is_borne_out(open, full);
            (!right).then(|| format!("{}: {:?}; {open}, {full}", told.key, told.outcomes))
        })
        .collect();
    assert_eq!(wrong.len(), 0, "{:#?}", &wrong[..wrong.len().min(10)]);

    let mut counts = BTreeMap::new();
    for outcome in told.iter().flat_map(|told| &told.outcomes) {
        let name = format!("{outcome:?}");
        let name = name.split([' ', '{']).next().unwrap_or_default();
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

impl Told {
    /// Whether the outcomes agree with how often the message is in each queue.
    fn is_borne_out(&self, open: usize, full: usize) -> bool {
        let all = self.outcomes.len();
        let routed = self.outcomes.iter().filter(|v| **v == PublishOutcome::Routed).count();
        let refused = self.outcomes.iter().filter(|v| **v == PublishOutcome::Refused).count();
        let is_unroutable = |v: &&PublishOutcome| matches!(v, PublishOutcome::Unroutable { .. });
        let unroutable = self.outcomes.iter().filter(is_unroutable).count();
        match self.key {
            "open" => routed == all && (open, full) == (routed, 0),
            "full" => routed + refused == all && (open, full) == (0, routed),
            // One queue refuses the message, and the other has it all the same.
            "both" => routed + refused == all && (open, full) == (all, routed),
            _ => unroutable == all && (open, full) == (0, 0),
        }
    }
}

/// Queue `open` takes every message, `full` hardly any; the key `both` leads to both queues.
fn open_and_full() -> Topology {
    let full = [
        ("x-max-length", Argument::Integer(10)),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ];
    topology(&[("open", &[]), ("full", &full)])
        .with_binding("x", "both", "open")
        .with_binding("x", "both", "full")
}

async fn fill(publisher: &Publisher) {
    for number in 0.. {
        let message = message("full", &format!("filling {number}"));
        if outcome(publisher.publish(message).unwrap()).await == PublishOutcome::Refused {
            return;
        }
    }
}

async fn publish_mixed(
    publisher: Publisher,
    task: usize,
    keys: &'static [&'static str],
) -> Vec<Told> {
    let mut told = Vec::new();
    let numbers: Vec<usize> = (0..MESSAGES_PER_TASK).collect();
    for burst in numbers.chunks(IN_FLIGHT) {
        let mut pending = Vec::new();
        for number in burst {
            let key = keys[(number * 7 + task * 5 + number / 16) % keys.len()];
            let id = format!("{task}-{number}");
            // Some messages are there twice, so that one batch holds the same id, exchange and key
            // twice.
            let copies = if number % 20 == 0 { 2 } else { 1 };
            let outcomes: Vec<_> =
                (0..copies).map(|_| publisher.publish(message(key, &id)).unwrap()).collect();
            pending.push((key, id, outcomes));
        }
        for (key, id, waiting) in pending {
            let mut outcomes = Vec::new();
            for pending in waiting {
                outcomes.push(outcome(pending).await);
            }
            told.push(Told { key, id, outcomes });
        }
    }
    told
}

#[tokio::test]
async fn a_message_without_an_id_gets_its_own_verdict_too() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "no id", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let pending: Vec<_> = (0..200)
        .map(|number| {
            let key = if number % 2 == 0 { "open" } else { "nowhere" };
            let properties = Properties::default();
            publisher.publish(Outgoing { properties, ..message(key, "") }).unwrap()
        })
        .collect();
    for (number, pending) in pending.into_iter().enumerate() {
        let outcome = outcome(pending).await;
        if number % 2 == 0 {
            assert_eq!(outcome, PublishOutcome::Routed);
        } else {
            assert_eq!(outcome, PublishOutcome::Unroutable { why: "NO_ROUTE (312)".to_owned() });
        }
    }
    assert_eq!(drain(&vhost, "open").await.len(), 100, "each has an id of its own");
    connection.close().await;
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_before_it_is_sent() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "unsayable", topology(&[("open", &[])])).await;
    let settings = PublisherSettings { max_waiting: 3, ..PublisherSettings::default() };
    let publisher = Publisher::start(&connection, settings);

    let body = Bytes::from(vec![b'x'; MAX_BODY_BYTES + 1]);
    let too_large = publisher.publish(Outgoing { body: body.clone(), ..message("open", "a") });
    assert_eq!(too_large.unwrap_err(), NotTaken::TooLarge(MAX_BODY_BYTES + 1));
    let largest = Outgoing { body: body.slice(1..), ..message("open", "b") };
    assert_eq!(outcome(publisher.publish(largest).unwrap()).await, PublishOutcome::Routed);

    let unsayable = publisher.publish(message(&"k".repeat(256), "c")).unwrap();
    assert!(matches!(outcome(unsayable).await, PublishOutcome::Unroutable { .. }));

    // No other task runs between these calls: this test has one thread.
    let taken: Vec<_> = (0..3).map(|_| publisher.publish(message("open", "d")).unwrap()).collect();
    assert_eq!(publisher.publish(message("open", "e")).unwrap_err(), NotTaken::Overloaded);
    for pending in taken {
        assert_eq!(outcome(pending).await, PublishOutcome::Routed);
    }
    assert_eq!(
        outcome(publisher.publish(message("open", "f")).unwrap()).await,
        PublishOutcome::Routed
    );
    connection.close().await;
}

#[tokio::test]
async fn close_takes_nothing_more_and_loses_nothing() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "closing", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let pending: Vec<_> = (0..5_000)
        .map(|number| publisher.publish(message("open", &number.to_string())).unwrap())
        .collect();
    publisher.close(LONG).await;
    assert_eq!(publisher.publish(message("open", "late")).unwrap_err(), NotTaken::Closed);
    for pending in pending {
        let outcome = unconstrained(pending).now_or_never();
        assert_eq!(outcome, Some(PublishOutcome::Routed), "settled before close returns");
    }
    connection.close().await;
    assert_eq!(drain(&vhost, "open").await.len(), 5_000);
}

#[tokio::test]
async fn dropping_a_publisher_and_its_connection_loses_nothing_that_was_taken() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "dropped", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let pending: Vec<_> = (0..100)
        .map(|number| publisher.publish(message("open", &number.to_string())).unwrap())
        .collect();
    drop((publisher, connection));
    for pending in pending {
        assert_eq!(outcome(pending).await, PublishOutcome::Routed);
    }
}

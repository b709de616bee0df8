//! One bad destination: its own messages are refused, in words that say what to do, and nobody
//! else's.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_management::Method;
use countersign_producer::{Error, ErrorKind, ExchangeKind, Message, Publisher};
use countersign_testbed::{Broker, BrokerSettings, SOON, Vhost, eventually};
use serde_json::{Value, json};

use crate::stage::{QUEUE, Stage, insert, settings, thing};

fn to(exchange: &str) -> Message {
    Message::json(exchange, "thing.made", "thing.made", &"a chair").unwrap()
}

async fn manage(vhost: &Vhost, method: Method, path: &[&str], body: Option<Value>) {
    vhost.management().call(method, path, body).await.unwrap();
}

async fn declare(vhost: &Vhost, exchange: &str) {
    let definition = json!({ "type": "topic", "durable": true });
    manage(vhost, Method::PUT, &["exchanges", vhost.name(), exchange], Some(definition)).await;
}

/// Arms a message, and waits for its check.
async fn hold(publisher: &Publisher, message: Message) -> Result<(), Error> {
    publisher.arm(message)?.held().await.map(drop)
}

#[tokio::test]
async fn an_exchange_that_does_not_exist_is_refused_before_the_commit() {
    let stage = Stage::new(settings()).await;
    let mut state = stage.publisher.messages_link();
    state.mark_unchanged();
    let message = to("thinks");
    let id = message.id();
    let error = stage.begin(message, "a chair").await.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination, "{error:?}");
    for part in ["no exchange \"thinks\"", "is the name right?", "with_exchange", "consumer"] {
        assert!(error.to_string().contains(part), "{part:?} is missing in {error}");
    }
    assert!(error.is_retryable() && !error.may_be_committed());
    assert!(!stage.is_committed(id).await && stage.state(id).await.is_none());
    assert_eq!(error.into_messages().len(), 1, "the message comes back");
    let again = hold(&stage.publisher, to("thinks")).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Destination, "{again:?}");

    let good = stage.place("a table").await;
    stage.published(good).await;
    assert!(!state.has_changed().unwrap(), "one connection served all");
}

#[tokio::test]
async fn an_exchange_declared_later_is_found() {
    let stage = Stage::new(settings()).await;
    let error = hold(&stage.publisher, to("later")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination, "{error:?}");
    declare(&stage.vhost, "later").await;
    stage.vhost.bind("later", QUEUE, "#").await;
    let armed = eventually("the exchange is found", SOON, async || {
        let message = to("later");
        let id = message.id();
        stage.publisher.arm(message)?.held().await.map(|held| (held, id))
    });
    let (held, id) = armed.await;
    held.committed().publish();
    stage.published(id).await;
}

#[tokio::test]
async fn a_message_that_meets_a_wall_is_left_to_its_check_and_the_next_is_refused() {
    let stage = Stage::new(settings().with_exchange("short-lived", ExchangeKind::Topic)).await;
    let path = ["exchanges", stage.vhost.name(), "short-lived"];
    manage(&stage.vhost, Method::DELETE, &path, None).await;
    let mut state = stage.publisher.messages_link();
    state.mark_unchanged();
    let first = to("short-lived");
    let id = first.id();
    stage.publisher.arm(first).unwrap().held().await.unwrap().committed().publish();
    let error = eventually("the publisher knows of the wall", SOON, async || {
        match stage.publisher.arm(to("short-lived")) {
            Err(error) => Ok(error),
            Ok(armed) => Err(armed),
        }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Destination, "{error:?}");
    assert!(error.to_string().contains("no exchange 'short-lived'"), "{error}");
    assert_eq!(stage.checks_of(id).await, 1, "its check will have it sent again");
    let good = stage.place("a table").await;
    stage.published(good).await;
    assert!(!state.has_changed().unwrap(), "one connection served all");
}

#[tokio::test]
async fn losing_the_connection_for_messages_leaves_the_checks_alone() {
    let stage = Stage::new(settings()).await;
    let mut checks = stage.publisher.link();
    checks.mark_unchanged();
    let mut messages = stage.publisher.messages_link();
    messages.mark_unchanged();
    eventually("the broker knows of the connection", SOON, async || {
        stage.vhost.close_connections("tested messages").await == 1
    })
    .await;
    messages.changed().await.unwrap();
    hold(&stage.publisher, thing("a chair")).await.unwrap();
    assert!(!checks.has_changed().unwrap(), "checks have a connection of their own");
    let id = stage.place("a table").await;
    stage.published(id).await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_the_start() {
    let mut wrong = settings();
    wrong.consumers.clear();
    wrong.max_unconfirmed = 0;
    let error = Publisher::start("amqp://127.0.0.1:1".parse().unwrap(), wrong).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Settings, false), "{error}");
    for part in ["consumers", "max_unconfirmed"] {
        assert!(error.to_string().contains(part), "{part} is missing in {error}");
    }
}

#[tokio::test]
async fn more_than_ever_fits_is_not_called_overloaded() {
    let mut settings = settings();
    settings.max_unconfirmed = 2;
    let stage = Stage::new(settings).await;
    let three = (0..3).map(|_| thing("a chair")).collect();
    let error = stage.publisher.arm_all(three).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("max_unconfirmed is 2"), "{error}");
}

#[tokio::test]
async fn a_publisher_closes_without_a_deadline() {
    let stage = Stage::new(settings()).await;
    let id = stage.place("a chair").await;
    tokio::time::timeout(SOON, stage.publisher.close(Duration::MAX)).await.unwrap();
    stage.published(id).await;
}

/// The largest message that this test's broker takes.
const MAX_MESSAGE: usize = 20_000;
const TASKS: usize = 8;

/// What the load of good messages met.
#[derive(Debug, Default)]
struct Load {
    placed: usize,
    refused: Vec<String>,
    latencies: Vec<Duration>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_message_a_second_refuses_none_of_200_good_ones() {
    let config = format!("max_message_size = {MAX_MESSAGE}");
    let broker = BrokerSettings { config, ..BrokerSettings::default() };
    let broker = Broker::start(broker).await.unwrap();
    let vhost = Vhost::create(broker.address()).await.unwrap();
    // A user who may write everywhere but to one exchange.
    declare(&vhost, "forbidden").await;
    let account = json!({ "password": "secret", "tags": "" });
    manage(&vhost, Method::PUT, &["users", "upstream"], Some(account)).await;
    let rights =
        json!({ "configure": ".*", "write": "^(countersign|things|short).*", "read": ".*" });
    manage(&vhost, Method::PUT, &["permissions", vhost.name(), "upstream"], Some(rights)).await;
    let (_, host) = vhost.url().split_once('@').unwrap();
    let address = format!("amqp://upstream:secret@{host}");
    let settings = settings().with_exchange("short-lived", ExchangeKind::Topic);
    let stage = Stage::of(vhost, &address, settings).await;
    let path = ["exchanges", stage.vhost.name(), "short-lived"];
    manage(&stage.vhost, Method::DELETE, &path, None).await;

    let before = good_ones(&stage, async || tokio::time::sleep(Duration::from_secs(3)).await).await;
    let mut state = (stage.publisher.link(), stage.publisher.messages_link());
    state.0.mark_unchanged();
    state.1.mark_unchanged();
    let during = good_ones(&stage, async || bad_ones(&stage.publisher, 6).await).await;
    assert_eq!(before.refused, Vec::<String>::new());
    assert_eq!(during.refused, Vec::<String>::new());
    assert!(during.placed > 100, "{}", during.placed);
    let (before, during) = (median(before.latencies), median(during.latencies));
    println!("median latency before {before:?}, during {during:?}");
    assert!(during < before * 10 + Duration::from_millis(500), "{before:?}, then {during:?}");
    assert!(!state.0.has_changed().unwrap() && !state.1.has_changed().unwrap());
}

/// One message a second to an exchange that is gone, to one that the user may not write to, and one
/// that is too large.
async fn bad_ones(publisher: &Publisher, seconds: usize) {
    for _ in 0..seconds {
        let mut large = to("things");
        large = Message::new("things", "thing.made", Bytes::from(vec![b'x'; MAX_MESSAGE + 1]))
            .with_id(large.id());
        for bad in [to("missing"), to("short-lived"), to("forbidden"), large] {
            match publisher.arm(bad) {
                Ok(armed) => {
                    if let Ok(held) = armed.held().await {
                        held.committed().publish();
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Destination, "{error}"),
            }
        }
        // The pace of the load, which nothing waits for.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Places 200 messages a second as long as `meanwhile` runs.
async fn good_ones(stage: &Stage, meanwhile: impl AsyncFnOnce()) -> Load {
    let (enough, placed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let task = async || {
        let mut load = Load::default();
        let mut pace =
            tokio::time::interval(Duration::from_millis(5) * u32::try_from(TASKS).unwrap());
        while !enough.load(Ordering::Relaxed) {
            pace.tick().await;
            let began = Instant::now();
            match place(stage).await {
                Ok(()) => load.latencies.push(began.elapsed()),
                Err(error) => load.refused.push(format!("{error:?}")),
            }
            placed.fetch_add(1, Ordering::Relaxed);
        }
        load
    };
    let tasks = futures_util::future::join_all((0..TASKS).map(|_| task()));
    let (loads, ()) = tokio::join!(tasks, async {
        meanwhile().await;
        enough.store(true, Ordering::Relaxed);
    });
    let mut all = Load { placed: placed.into_inner(), ..Load::default() };
    for load in loads {
        all.refused.extend(load.refused);
        all.latencies.extend(load.latencies);
    }
    all
}

async fn place(stage: &Stage) -> Result<(), Error> {
    let message = thing("a chair");
    let id = message.id();
    let mut tx = stage.publisher.arm(message)?.begin(&stage.pool).await?;
    insert(&mut tx, id, "a chair").await?;
    tx.commit().await?.publish();
    Ok(())
}

fn median(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    latencies[latencies.len() / 2]
}

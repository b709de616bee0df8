//! Brokers that are away, silent, full, or without a wait queue.

use std::time::Duration;

use countersign_producer::{ErrorKind, Publisher};
use countersign_testbed::{Conduct, Proxy, SOON, eventually};

use crate::stage::{QUEUE, Stage, insert, settings, thing};

#[tokio::test]
async fn without_a_wait_queue_nothing_is_committed_and_the_error_says_what_to_do() {
    let mut settings = settings();
    settings.tier = "7s".parse().unwrap();
    let stage = Stage::new(settings).await;
    let message = thing("a chair");
    let id = message.id();
    let error = stage.begin(message, "a chair").await.commit().await.unwrap_err();
    for part in ["no wait queue for tier 7s", "callback service", "COUNTERSIGN_CHECK_TIERS"] {
        assert!(error.to_string().contains(part), "{part:?} is missing in {error}");
    }
    assert_eq!(error.kind(), ErrorKind::NoWaitQueue, "{error:?}");
    assert!(error.is_retryable() && !error.may_be_committed());
    assert!(!stage.is_committed(id).await && stage.state(id).await.is_none());
    let [given_back] = &error.into_messages()[..] else { panic!("the message comes back") };
    assert_eq!(given_back.id(), id);
}

#[tokio::test]
async fn a_broker_that_is_away_is_told_at_once() {
    let unused = countersign_testbed::Port::claim().unwrap();
    let address = format!("amqp://guest:guest@127.0.0.1:{}", unused.number());
    let publisher = Publisher::start(address.parse().unwrap(), settings()).unwrap();
    let error = publisher.arm(thing("a chair")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokerAway, "{error:?}");
    assert!(error.is_retryable());
    assert_eq!(error.into_messages().len(), 1, "the message comes back");
}

#[tokio::test]
async fn a_silent_broker_rolls_the_transaction_back_in_time() {
    let stage = Stage::new(settings()).await;
    let (before, rest) = stage.vhost.url().rsplit_once(':').unwrap();
    let (port, vhost) = rest.split_once('/').unwrap();
    let proxy = Proxy::start(format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap();
    let address = format!("{before}:{}/{vhost}", proxy.address().port());
    let mut settings = settings();
    settings.arm_timeout = Duration::from_millis(300);
    settings.database = Some(stage.identity);
    let publisher = Publisher::start(address.parse().unwrap(), settings).unwrap();
    publisher.ready().await;
    proxy.conduct(Conduct::Silence);

    let message = thing("a chair");
    let id = message.id();
    let mut tx = publisher.arm(message).unwrap().begin(&stage.pool).await.unwrap();
    insert(&mut tx, id, "a chair").await.unwrap();
    let error = tokio::time::timeout(SOON, tx.commit()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoAnswer, "{error:?}");
    assert!(error.to_string().contains("within 300 ms"), "{error}");
    assert_eq!(error.into_messages().len(), 1, "the message comes back");
    assert!(!stage.is_committed(id).await);
}

#[tokio::test]
async fn no_more_than_the_limit_is_armed_or_unconfirmed() {
    let mut settings = settings();
    settings.max_unconfirmed = 2;
    let stage = Stage::new(settings).await;
    let first = stage.publisher.arm(thing("1")).unwrap();
    let second = stage.publisher.arm(thing("2")).unwrap();
    let error = stage.publisher.arm(thing("3")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    drop(first);
    second.held().await.unwrap().committed().publish();
    let third =
        eventually("there is room again", SOON, async || stage.publisher.arm(thing("3"))).await;
    drop(third.held().await.unwrap());
}

#[tokio::test]
async fn a_message_that_a_full_queue_refuses_is_published_when_there_is_room() {
    let stage = Stage::new(settings()).await;
    stage.vhost.delete_queue(QUEUE).await;
    let full = serde_json::json!({ "x-max-length": 1, "x-overflow": "reject-publish" });
    stage.vhost.declare_queue(QUEUE, full).await;
    stage.vhost.bind("things", QUEUE, "#").await;
    eventually("the queue is full", SOON, async || stage.vhost.refuses(QUEUE).await).await;
    let id = stage.place("a chair").await;
    let sent = stage.published(id).await;
    assert_eq!(sent.headers["countersign-attempt"], 1);
}

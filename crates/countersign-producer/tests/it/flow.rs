//! Arm, begin, commit, publish; and again after a rollback.

use std::time::Duration;

use countersign_producer::{ErrorKind, HeaderValue, Isolation, StoredMessages};
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{SOON, id_of_age};

use crate::stage::{Stage, WAITING_CHECKS, insert, outcome, settings, thing};

#[tokio::test]
async fn a_committed_message_has_its_check_and_is_published() {
    let stage = Stage::new(settings()).await;
    let traced =
        HeaderValue::Text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    let message = thing("a chair").with_header("traceparent", traced).unwrap();
    let id = message.id();
    let tx = stage.begin(message, "a chair").await;
    assert!(!stage.is_committed(id).await);
    tx.commit().await.unwrap().publish();
    assert!(stage.is_committed(id).await);
    assert_eq!(stage.state(id).await.as_deref(), Some("enlisted"));

    let [check] = &stage.vhost.peek(WAITING_CHECKS, 10).await[..] else { panic!("one check") };
    let check = check.json();
    assert_eq!((&check["v"], &check["upstream"]), (&1.into(), &"tested".into()));
    let arming = check["messages"][0]["arming"].clone();
    arming.as_str().unwrap().parse::<countersign_protocol::ArmingId>().unwrap();
    let entry = serde_json::json!([
        { "id": id.to_string(), "consumers": ["thinker"], "arming": arming }
    ]);
    assert_eq!(check["messages"], entry);

    let sent = stage.published(id).await;
    assert_eq!((sent.exchange.as_str(), sent.key.as_str()), ("things", "thing.made"));
    assert_eq!(sent.json(), "a chair");
    assert_eq!(sent.headers["countersign-attempt"], 1);
    assert!(sent.headers["countersign-published-at-ms"].as_i64() >= Some(id.time().ms()));
    assert!(sent.headers["traceparent"].as_str().unwrap().starts_with("00-0af7"));
    assert_eq!(
        (&sent.properties["delivery_mode"], &sent.properties["app_id"]),
        (&2.into(), &"tested".into())
    );
    assert_eq!(sent.properties["type"], "thing.made");
}

#[tokio::test]
async fn a_thousand_messages_go_in_one_transaction_and_no_more() {
    let stage = Stage::new(settings()).await;
    let messages: Vec<_> = (0..1_000).map(|n| thing(&n.to_string())).collect();
    let mut tx = stage.publisher.arm_all(messages).unwrap().begin(&stage.pool).await.unwrap();
    let ids: Vec<_> = tx.message_ids().collect();
    insert(&mut tx, ids[0], "all of them").await.unwrap();
    tx.commit().await.unwrap().publish();
    let enlisted: i64 = sqlx::query_scalar("SELECT count(*) FROM countersign.enlisted")
        .fetch_one(&stage.pool)
        .await
        .unwrap();
    assert_eq!(enlisted, 1_000);
    stage.publisher.close(SOON).await;
    let sent = stage.vhost.take(crate::stage::QUEUE, 2_000).await;
    assert_eq!(sent.len(), 1_000, "closing waits until they are published");
    for id in [ids[0], ids[999]] {
        assert_eq!(stage.checks_of(id).await, 1);
    }
    let late = stage.publisher.arm(thing("late")).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Closed);
    assert_eq!(late.into_messages().len(), 1, "given back");
    for count in [0, 1_001] {
        let messages = (0..count).map(|n| thing(&n.to_string())).collect();
        let error = stage.publisher.arm_all(messages).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with(&format!("{count} messages")), "{error}");
        assert_eq!(error.into_messages().len(), count, "given back");
    }
}

#[tokio::test]
async fn after_a_rollback_the_same_messages_are_begun_again() {
    let stage = Stage::new(settings()).await;
    let message = thing("a chair");
    let id = message.id();
    let armed = stage.begin(message, "a chair").await.rollback().await;
    assert_eq!(stage.state(id).await, None);

    // The test swallows an error: Postgres would answer the COMMIT with a rollback that looks like
    // success.
    let mut tx = armed.begin_at(&stage.pool, Isolation::Serializable).await.unwrap();
    insert(&mut tx, id, "").await.unwrap_err();
    let error = tx.commit().await.unwrap_err();
    assert_eq!((error.kind(), error.may_be_committed()), (ErrorKind::Database, false), "{error:?}");
    let armed = error.into_armed().expect("a failed transaction cannot be committed");
    assert_eq!(stage.state(id).await, None);

    let mut tx = armed.held().await.unwrap().begin(&stage.pool).await.unwrap();
    insert(&mut tx, id, "a chair").await.unwrap();
    tx.commit().await.unwrap().publish();
    stage.published(id).await;
    assert_eq!(stage.checks_of(id).await, 1, "armed once");
}

#[tokio::test]
async fn an_id_is_committed_once() {
    let stage = Stage::new(settings()).await;
    let message = thing("a chair");
    stage.begin(message.clone(), "a chair").await.commit().await.unwrap().publish();
    let again = stage.publisher.arm(message.clone()).unwrap().begin(&stage.pool).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyCommitted, "{again:?}");
    assert!(again.may_be_committed(), "the earlier transaction is: {again:?}");
    assert_eq!(again.message_id(), Some(message.id()));
}

#[tokio::test]
async fn an_armed_message_that_is_too_old_has_to_be_made_anew() {
    let mut settings = settings();
    settings.armed_max_age = Duration::from_secs(30);
    let stage = Stage::new(settings).await;
    let old = thing("a chair").with_id(id_of_age(Duration::from_secs(31)));
    let error = stage.publisher.arm(old).unwrap().begin(&stage.pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooOld, "{error:?}");
    assert!(error.to_string().contains("make a new message"), "{error}");
}

#[tokio::test]
async fn a_stored_message_is_found_as_it_was_sent() {
    let mut settings = settings();
    settings.store_messages = true;
    let stage = Stage::new(settings).await;
    let message = thing("a chair").with_header("urgent", HeaderValue::Boolean(true)).unwrap();
    let id = message.id();
    let tx = stage.publisher.arm(message).unwrap().begin(&stage.pool).await.unwrap();
    tx.commit().await.unwrap().publish();
    let mut first = stage.published(id).await;

    let answer = stage.try_ask(StoredMessages, &id.to_string(), 2).await.unwrap();
    assert_eq!(outcome(&answer), Outcome::Republished, "{answer:?}");
    let mut second = stage.published(id).await;
    assert_eq!(second.headers["countersign-attempt"], 2);
    for sent in [&mut first, &mut second] {
        sent.headers.remove("countersign-attempt");
        sent.headers.remove("countersign-published-at-ms");
        sent.properties.remove("timestamp");
    }
    assert_eq!(first, second);
    assert_eq!(first.headers["urgent"], true);
}

#[tokio::test]
async fn cancelled_anywhere_the_flow_leaves_no_transaction_open() {
    const ROUNDS: usize = 150;
    let stage = Stage::new(settings()).await;
    let mut cancelled = 0;
    for _ in 0..ROUNDS {
        let limit = Duration::from_micros(fastrand::u64(..8_000));
        if tokio::time::timeout(limit, stage.place("perhaps")).await.is_err() {
            cancelled += 1;
        }
        let id = id_of_age(Duration::ZERO);
        insert(&mut stage.pool.acquire().await.unwrap(), id, "surely").await.unwrap();
    }
    assert!(cancelled > ROUNDS / 10, "only {cancelled} were cancelled");
    let outside = stage.database.pool().await.unwrap();
    let (sure, without_the_other): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM thing WHERE name = 'surely'),
         (SELECT count(*) FROM countersign.enlisted FULL JOIN thing USING (message_id)
          WHERE name IS DISTINCT FROM 'surely' AND (state IS NULL OR name IS NULL))",
    )
    .fetch_one(&outside)
    .await
    .unwrap();
    assert_eq!((usize::try_from(sure).unwrap(), without_the_other), (ROUNDS, 0));
}

//! Only the upstream and the database in which a transaction would have committed say that it never
//! did.

use std::time::Duration;

use countersign_producer::{ErrorKind, MessageId, Publisher, prepare, upstream};
use countersign_protocol::grpc::RequestResendRequest;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_testbed::{database, id_at, id_of_age};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::stage::{Stage, Things, insert, outcome, settings, thing};

const HOUR: Duration = Duration::from_secs(3_600);

/// How many ids the table holds, fences included.
async fn enlisted(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM countersign.enlisted").fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_transaction_in_another_database_than_the_checks_name_is_not_begun() {
    let stage = Stage::new(settings()).await;
    let other = database().await;
    let pool = other.pool().await.unwrap();
    prepare(&pool, settings().retention, CancellationToken::new()).await.unwrap();
    for store_messages in [false, true] {
        let mut settings = settings();
        settings.store_messages = store_messages;
        settings.database = Some(stage.identity);
        let publisher = Publisher::start(stage.vhost.url().parse().unwrap(), settings).unwrap();
        publisher.ready().await;
        let armed = publisher.arm(thing("a chair")).unwrap();
        let error = armed.begin(&pool).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongDatabase, "{error:?}");
        assert!(!error.may_be_committed() && !error.is_retryable());
        assert_eq!(error.into_messages().len(), 1);
    }
    assert_eq!(enlisted(&pool).await, 0);
}

#[tokio::test]
async fn a_publisher_that_was_told_no_database_begins_no_transaction() {
    let stage = Stage::new(settings()).await;
    let publisher = Publisher::start(stage.vhost.url().parse().unwrap(), settings()).unwrap();
    publisher.ready().await;
    let error = publisher.arm(thing("a chair")).unwrap().begin(&stage.pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongDatabase, "{error:?}");
    assert!(error.to_string().contains("ProducerSettings::database"), "{error}");
}

#[tokio::test]
async fn who_is_meant_for_another_refuses_and_touches_nothing() {
    let stage = Stage::new(settings()).await;
    let id = stage.place("a chair").await;
    let missing = id_of_age(HOUR);
    let other = "6f9619ff-8b86-4011-b42d-00c04fc964ff";
    let mut client =
        UpstreamClient::new(upstream(stage.publisher.clone(), stage.pool.clone(), Things));
    for id in [id, missing] {
        let right = stage.request(&id.to_string(), 2);
        for (wrong, said) in [
            (
                RequestResendRequest { upstream: "payments".to_owned(), ..right.clone() },
                "upstream payments is meant; this is tested",
            ),
            (RequestResendRequest { database: other.to_owned(), ..right }, other),
        ] {
            let answer = client.request_resend(wrong).await.unwrap().into_inner();
            assert_eq!(outcome(&answer), Outcome::Misdirected, "{answer:?}");
            assert!(answer.reason.contains(said), "{answer:?}");
            let named = (answer.upstream.as_str(), answer.database.as_str());
            assert_eq!(named, ("tested", stage.identity.to_string().as_str()));
        }
    }
    assert_eq!(enlisted(&stage.pool).await, 1, "no fence");
    assert_eq!(stage.checks_of(id).await, 1, "no fresh check");
}

#[tokio::test]
async fn a_request_that_names_no_database_is_answered_but_never_with_never_committed() {
    let stage = Stage::new(settings()).await;
    let id = stage.place("a chair").await;
    let missing = id_of_age(HOUR);
    let fenced = id_of_age(HOUR);
    assert_eq!(outcome(&stage.ask(fenced, 2).await), Outcome::NeverCommitted);
    let mut client =
        UpstreamClient::new(upstream(stage.publisher.clone(), stage.pool.clone(), Things));
    let mut by_hand = async |id: MessageId| {
        let message_id = id.to_string();
        let request = RequestResendRequest { message_id, ..Default::default() };
        client.request_resend(request).await.unwrap().into_inner()
    };
    assert_eq!(outcome(&by_hand(id).await), Outcome::Republished);
    for id in [missing, fenced] {
        let answer = by_hand(id).await;
        assert_eq!(outcome(&answer), Outcome::Unknown, "{answer:?}");
        assert!(answer.reason.contains("names no database"), "{answer:?}");
    }
    assert_eq!(stage.state(missing).await, None, "no fence");
}

#[tokio::test]
async fn an_id_of_another_upstream_on_the_same_database_is_not_this_ones() {
    let stage = Stage::new(settings()).await;
    let mut settings = settings();
    settings.upstream = "payments".parse().unwrap();
    settings.database = Some(stage.identity);
    let payments = Publisher::start(stage.vhost.url().parse().unwrap(), settings).unwrap();
    payments.ready().await;
    let message = thing("a payment");
    let id = message.id();
    let mut tx = payments.arm(message).unwrap().begin(&stage.pool).await.unwrap();
    insert(&mut tx, id, "a payment").await.unwrap();
    tx.commit().await.unwrap().publish();
    let answer = stage.ask(id, 2).await;
    assert_eq!(outcome(&answer), Outcome::Unknown, "{answer:?}");
    assert!(answer.reason.contains("another upstream of this database"), "{answer:?}");
}

#[tokio::test]
async fn a_transaction_by_a_clock_that_is_hours_off_is_not_begun() {
    let stage = Stage::new(settings()).await;
    let now = MessageId::generate().time();
    for store_messages in [false, true] {
        let mut settings = settings();
        settings.store_messages = store_messages;
        settings.armed_max_age = 3 * HOUR;
        settings.database = Some(stage.identity);
        let publisher = Publisher::start(stage.vhost.url().parse().unwrap(), settings).unwrap();
        publisher.ready().await;
        // This machine's clock has made the id, and the database's says two hours more.
        let message = thing("a chair").with_id(id_at(now.before(2 * HOUR)));
        let armed = publisher.arm(message).unwrap();
        let error = armed.begin(&stage.pool).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClocksDisagree, "{error:?}");
        assert!(!error.may_be_committed() && error.is_retryable());
        assert!(error.into_armed().is_some());
    }
    assert_eq!(enlisted(&stage.pool).await, 0);
}

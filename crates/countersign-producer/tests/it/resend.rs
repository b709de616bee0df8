//! `RequestResend`, answered from real tables.

use std::time::Duration;

use countersign_producer::{ErrorKind, Found, MessageId, MessageSource, SourceError, upstream};
use countersign_protocol::Token;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_testbed::{SOON, id_of_age};
use sqlx::PgConnection;
use tonic::{Code, Request};

use crate::stage::{QUEUE, Stage, Things, outcome, settings, thing};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn a_known_message_is_checked_and_published_again() {
    let stage = Stage::new(settings()).await;
    let id = stage.place("a chair").await;
    stage.published(id).await;
    let answer = stage.ask(id, 2).await;
    assert_eq!((outcome(&answer), answer.attempt), (Outcome::Republished, 2), "{answer:?}");
    let sent = stage.published(id).await;
    assert_eq!(sent.json(), "a chair");
    assert_eq!(sent.headers["countersign-attempt"], 2);
    assert_eq!(sent.headers["countersign-published-at-ms"], answer.published_at_ms);
    assert_eq!(stage.checks_of(id).await, 2, "a fresh check besides the first");
}

#[tokio::test]
async fn only_the_same_attempt_is_not_published_twice() {
    let stage = Stage::new(settings()).await;
    let id = stage.place("a chair").await;
    stage.published(id).await;
    let mut upstream =
        UpstreamClient::new(upstream(stage.publisher.clone(), stage.pool.clone(), Things));
    let mut attempts = Vec::new();
    for attempt in [2, 2, 3, 0, 0, 4] {
        let answer =
            upstream.request_resend(stage.request(&id.to_string(), attempt)).await.unwrap();
        let answer = answer.into_inner();
        assert_eq!(outcome(&answer), Outcome::Republished, "{answer:?}");
        attempts.push(answer.attempt);
    }
    assert_eq!(attempts, [2, 2, 3, 4, 5, 4], "by hand: the one after the highest known");
    stage.publisher.close(SOON).await;
    let sent = stage.vhost.take(QUEUE, 100).await;
    let sent: Vec<_> =
        sent.iter().map(|message| message.headers["countersign-attempt"].as_i64()).collect();
    assert_eq!(sent, [Some(2), Some(3), Some(4), Some(5), Some(4)]);
}

#[tokio::test]
async fn a_fresh_unknown_id_is_in_progress_and_not_fenced() {
    let mut settings = settings();
    settings.longest_transaction = Duration::from_secs(60);
    settings.armed_max_age = Duration::from_secs(30);
    let stage = Stage::new(settings).await;
    let message = thing("a chair");
    let id = message.id();
    let answer = stage.ask(id, 2).await;
    assert_eq!(outcome(&answer), Outcome::InProgress, "{answer:?}");
    assert!((1..=60_000).contains(&answer.retry_after_ms), "{answer:?}");
    stage.begin(message, "a chair").await.commit().await.unwrap().publish();
    assert_eq!(outcome(&stage.ask(id, 2).await), Outcome::Republished);
}

#[tokio::test]
async fn an_old_unknown_id_is_never_committed_and_never_will_be() {
    let stage = Stage::new(settings()).await;
    let late = thing("a chair").with_id(id_of_age(HOUR / 2));
    let id = late.id();
    for _ in 0..2 {
        let answer = stage.ask(id, 2).await;
        assert_eq!(outcome(&answer), Outcome::NeverCommitted, "{answer:?}");
    }
    assert_eq!(stage.state(id).await.as_deref(), Some("fenced"));
    let error = stage.publisher.arm(late).unwrap().begin(&stage.pool).await.unwrap_err();
    assert_eq!((error.kind(), error.message_id()), (ErrorKind::Fenced, Some(id)), "{error:?}");
}

#[tokio::test]
async fn an_open_transaction_is_in_progress_and_its_end_decides() {
    let stage = Stage::new(settings()).await;
    for commits in [true, false] {
        let message = thing("a chair").with_id(id_of_age(HOUR / 2));
        let id = message.id();
        let tx = stage.begin(message, "a chair").await;
        let answer = stage.ask(id, 2).await;
        assert_eq!(outcome(&answer), Outcome::InProgress, "{answer:?}");
        assert!(answer.retry_after_ms > 0, "{answer:?}");
        let expected = if commits {
            tx.commit().await.unwrap().publish();
            Outcome::Republished
        } else {
            drop(tx.rollback().await);
            Outcome::NeverCommitted
        };
        assert_eq!(outcome(&stage.ask(id, 2).await), expected);
        assert_eq!(stage.is_committed(id).await, commits);
    }
}

#[tokio::test]
async fn what_cannot_be_told_is_unknown_and_what_is_not_wanted_is_withdrawn() {
    let mut settings = settings();
    settings.retention = 240 * HOUR;
    let stage = Stage::new(settings).await;
    let lost = thing("lost");
    let id = lost.id();
    let tx = stage.publisher.arm(lost).unwrap().begin(&stage.pool).await.unwrap();
    tx.commit().await.unwrap().publish();
    let answer = stage.ask(id, 2).await;
    assert_eq!(outcome(&answer), Outcome::Unknown, "enlisted, not found: {answer:?}");

    let answer = stage.ask(id_of_age(241 * HOUR), 2).await;
    assert_eq!(outcome(&answer), Outcome::Unknown, "older than records are kept: {answer:?}");
    assert!(answer.reason.contains("10 days"), "{answer:?}");

    let answer = stage.ask(stage.place("cancelled").await, 2).await;
    assert_eq!(outcome(&answer), Outcome::Withdrawn, "{answer:?}");
    assert_eq!(answer.reason, "it was cancelled");
}

#[tokio::test]
async fn what_the_broker_does_not_take_is_not_published_and_the_same_attempt_is_done_later() {
    let stage = Stage::new(settings()).await;
    let id = stage.place("a chair").await;
    stage.published(id).await;
    let mut upstream =
        UpstreamClient::new(upstream(stage.publisher.clone(), stage.pool.clone(), Things));
    let mut ask = async || {
        upstream.request_resend(stage.request(&id.to_string(), 2)).await.unwrap().into_inner()
    };
    stage.vhost.delete_queue(QUEUE).await;
    let answer = ask().await;
    assert_eq!(outcome(&answer), Outcome::NotPublished, "{answer:?}");
    assert!(answer.reason.contains("unroutable"), "{answer:?}");

    stage.vhost.declare_queue(QUEUE, serde_json::json!({})).await;
    stage.vhost.bind("things", QUEUE, "#").await;
    stage.vhost.delete_queue(crate::stage::WAITING_CHECKS).await;
    let answer = ask().await;
    assert_eq!(outcome(&answer), Outcome::NotPublished, "{answer:?}");
    assert!(answer.reason.contains("not armed"), "{answer:?}");
    assert!(stage.vhost.take(QUEUE, 10).await.is_empty(), "nothing is sent without a check");

    stage.vhost.declare_queue(crate::stage::WAITING_CHECKS, serde_json::json!({})).await;
    stage.vhost.bind("countersign.check", crate::stage::WAITING_CHECKS, "5m").await;
    let answer = ask().await;
    assert_eq!(outcome(&answer), Outcome::Republished, "{answer:?}");
    stage.published(id).await;
}

#[tokio::test]
async fn who_shows_no_token_has_nothing_sent_again() {
    let mut settings = settings();
    settings.token = Some("let-me-in".parse().unwrap());
    let stage = Stage::new(settings).await;
    let id = stage.place("a chair").await;
    stage.published(id).await;
    let mut upstream =
        UpstreamClient::new(upstream(stage.publisher.clone(), stage.pool.clone(), Things));
    let mut ask = async |token: Option<&str>| {
        let mut request = Request::new(stage.request(&id.to_string(), 2));
        if let Some(token) = token {
            token.parse::<Token>().unwrap().show(request.metadata_mut());
        }
        upstream.request_resend(request).await.map_err(|status| status.code())
    };
    assert_eq!(ask(None).await.unwrap_err(), Code::Unauthenticated);
    assert_eq!(ask(Some("let-me-out")).await.unwrap_err(), Code::PermissionDenied);
    assert_eq!(stage.checks_of(id).await, 1, "no fresh check");
    let answer = ask(Some("let-me-in")).await.unwrap().into_inner();
    assert_eq!(outcome(&answer), Outcome::Republished, "{answer:?}");
    stage.publisher.close(SOON).await;
    assert_eq!(stage.vhost.take(QUEUE, 100).await.len(), 1, "sent again once");
}

struct Broken(Trouble);

enum Trouble {
    Fails,
    Panics,
    FindsAnother,
}

impl MessageSource for Broken {
    async fn find(&self, tx: &mut PgConnection, _: MessageId) -> Result<Found, SourceError> {
        match self.0 {
            Trouble::Fails => {
                sqlx::raw_sql("SELECT oops").execute(tx).await?;
                Ok(Found::NotFound)
            }
            Trouble::Panics => panic!("a mistake in the user's code"),
            Trouble::FindsAnother => Ok(Found::Message(thing("another"))),
        }
    }
}

#[tokio::test]
async fn a_status_is_never_a_verdict() {
    let stage = Stage::new(settings()).await;
    let id = stage.place("a chair").await;
    stage.published(id).await;
    let status = stage.try_ask(Broken(Trouble::Panics), &id.to_string(), 2).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    for (trouble, why) in [(Trouble::Fails, "oops"), (Trouble::FindsAnother, "and returned")] {
        let answer = stage.try_ask(Broken(trouble), &id.to_string(), 2).await.unwrap();
        assert_eq!(outcome(&answer), Outcome::NotPublished, "nothing was sent: {answer:?}");
        assert!(answer.reason.contains(why), "{answer:?}");
    }
    for nonsense in ["", "nonsense", "6f9619ff-8b86-4011-b42d-00c04fc964ff"] {
        let status = stage.try_ask(Things, nonsense, 2).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().starts_with("message_id"), "{status:?}");
    }
    // None of it harmed the pool or the message.
    assert_eq!(outcome(&stage.ask(id, 2).await), Outcome::Republished);
}

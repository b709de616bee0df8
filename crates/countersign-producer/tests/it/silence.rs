//! Databases that are gone without a word: nothing is closed, nothing answers.

use std::time::Duration;

use countersign_producer::{Found, MessageId, MessageSource, SourceError, upstream};
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_testbed::{Proxy, Way};
use futures_util::future::join_all;
use sqlx::PgConnection;
use sqlx::postgres::PgPoolOptions;

use crate::stage::{Stage, Things, outcome, settings};

const A_MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn questions_to_a_silent_database_give_their_turns_back() {
    for way in [Way::ToTarget, Way::FromTarget, Way::Both] {
        let stage = Stage::new(settings()).await;
        let id = stage.place("a chair").await;
        let (proxy, url) = Proxy::before(stage.database.url()).await.unwrap();
        let options = PgPoolOptions::new().max_connections(2).test_before_acquire(false);
        let pool = options.connect(&url).await.unwrap();
        let service = upstream(stage.publisher.clone(), pool, Things);
        let ask = async |attempt: u32| {
            let request = stage.request(&id.to_string(), attempt);
            let asked = UpstreamClient::new(service.clone()).request_resend(request).await;
            outcome(&asked.unwrap().into_inner())
        };
        assert_eq!(ask(2).await, Outcome::Republished, "{way:?}");
        proxy.lose(way);
        // The questions about one message take turns: the first gives its turn back.
        let asked = tokio::time::timeout(A_MINUTE, join_all((3..6).map(&ask))).await;
        let answers = asked.expect("an answer to each");
        assert!(answers.contains(&Outcome::NotPublished), "{way:?}: {answers:?}");
        assert_eq!(ask(7).await, Outcome::Republished, "{way:?}");
    }
}

/// Asks a database that never answers.
struct Silent;

impl MessageSource for Silent {
    async fn find(&self, _: &mut PgConnection, _: MessageId) -> Result<Found, SourceError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_source_that_never_answers_gives_its_turn_back() {
    let stage = Stage::new(settings()).await;
    let id = stage.place("a chair").await.to_string();
    let asked = stage.try_ask(Silent, &id, 2);
    let answer = tokio::time::timeout(A_MINUTE, asked).await.expect("an answer").unwrap();
    assert_eq!(outcome(&answer), Outcome::NotPublished, "{answer:?}");
    assert!(answer.reason.contains("did not answer within"), "{answer:?}");
}

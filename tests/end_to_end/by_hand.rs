//! An operator calls `RequestResend` by hand.

use std::time::Duration;

use countersign_protocol::grpc::RequestResendRequest;
use countersign_protocol::grpc::request_resend_response::Outcome;
use tonic::Code;

use countersign_testbed::id_of_age;
use uuid::Uuid;

use crate::world::World;

#[tokio::test]
async fn a_known_message_is_republished_and_still_shipped_once() {
    let world = World::running().await;
    let order = world.place("an order").await;
    world.shipped(&order).await;

    let answer = world.request_resend(&order.message_id.to_string()).await.unwrap();
    assert_eq!(answer.outcome(), Outcome::Republished, "{}", answer.reason);
    assert!(answer.published_at_ms > 0);
    world.audit().await;
}

#[tokio::test]
async fn an_unknown_message_may_still_be_committed_while_it_is_young() {
    let world = World::running().await;
    let answer = world.request_resend(&id_of_age(Duration::ZERO).to_string()).await.unwrap();
    assert_eq!(answer.outcome(), Outcome::InProgress, "{}", answer.reason);
    assert!(answer.retry_after_ms > 0);
}

#[tokio::test]
async fn an_unknown_message_that_is_old_was_never_committed() {
    let world = World::running().await;
    let id = id_of_age(Duration::from_secs(3_600)).to_string();
    let answer = world.request_resend(&id).await.unwrap();
    assert_eq!(answer.outcome(), Outcome::Unknown, "of whichever database: {}", answer.reason);
    let database: Uuid = sqlx::query_scalar("SELECT database_id FROM countersign.identity")
        .fetch_one(&world.databases.orders)
        .await
        .unwrap();
    let request = RequestResendRequest {
        message_id: id,
        database: database.to_string(),
        ..RequestResendRequest::default()
    };
    let answer = world.ask_orders(request).await.unwrap();
    assert_eq!(answer.outcome(), Outcome::NeverCommitted, "{}", answer.reason);
}

#[tokio::test]
async fn nonsense_is_an_invalid_argument_that_says_what_is_expected() {
    let world = World::running().await;
    for nonsense in ["", "nonsense", "c9a8b6a4-1f6e-4c3e-9d0b-2f6f4f1f8a11"] {
        let status = world.request_resend(nonsense).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{nonsense:?}: {status:?}");
        assert!(status.message().contains("UUID"), "{nonsense:?}: {}", status.message());
    }
}

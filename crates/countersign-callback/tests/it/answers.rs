//! Answers kept apart: whatever an upstream or a consumer says about a message leads somewhere else,
//! and a person sees where and why.

use std::collections::BTreeMap;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::{GetMessageResponse, RequestResendResponse};
use countersign_testbed::{SOON, eventually};
use serde_json::json;
use tonic::Status;

use crate::stage::Stage;
use crate::upstream::{Reply, Upstream, say, saying};

/// What is told about a message once this is why it is in its state.
async fn told(stage: &Stage, id: MessageId, cause: &str) -> GetMessageResponse {
    eventually(&format!("{id} is told as {cause}"), SOON, async || {
        let told = stage.told(&id.to_string()).await.unwrap();
        if told.cause == cause { Ok(told) } else { Err(told) }
    })
    .await
}

/// States and causes, oldest first.
fn story(told: &GetMessageResponse) -> Vec<(&str, &str)> {
    told.history.iter().map(|event| (event.to_state.as_str(), event.cause.as_str())).collect()
}

const NOTED: (&str, &str) = ("waiting", "not_confirmed");
const ASKED: (&str, &str) = ("asking", "not_confirmed");

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_an_upstream_is_told_as_what_it_is() {
    let later = RequestResendResponse { retry_after_ms: 60_000, ..saying(Outcome::InProgress) };
    #[rustfmt::skip]
    let cases = [
        (say(Outcome::Republished), "waiting", "republished", 1, "sent again by orders as attempt 2"),
        (say(Outcome::NeverCommitted), "never_committed", "never_committed", 1, "orders says that its transaction never committed"),
        (Reply::Say(later), "waiting", "in_progress", 0, "orders says that its transaction may still commit"),
        (say(Outcome::Withdrawn), "withdrawn", "withdrawn", 1, "withdrawn by orders: so says the upstream"),
        (say(Outcome::NotPublished), "waiting", "not_published", 0, "orders could not send it: so says the upstream"),
        (say(Outcome::Unknown), "parked", "unknown_to_upstream", 1, "orders cannot tell: so says the upstream"),
        (Reply::Fail(Status::unauthenticated("who?")), "waiting", "upstream_away", 0, "orders could not be asked: it refuses the call: Unauthenticated, who?"),
        (Reply::Fail(Status::internal("oh")), "waiting", "unanswered", 1, "no answer from orders: Internal, oh"),
    ];
    let cases = cases.map(|case| (MessageId::generate(), case));
    let replies: BTreeMap<String, Reply> =
        cases.iter().map(|(id, case)| (id.to_string(), case.0.clone())).collect();
    let upstream = Upstream::always(say(Outcome::Unspecified)).await;
    upstream.reply(move |request| replies[&request.message_id].clone());
    let stage = Stage::new(&upstream, &[]).await;
    let ids: Vec<MessageId> = cases.iter().map(|(id, _)| *id).collect();
    stage.check(&ids, &["logistics"]).await;

    for (id, (_, state, cause, resends, reason)) in &cases {
        let told = told(&stage, *id, cause).await;
        assert_eq!((told.state.as_str(), told.resends), (*state, *resends), "{cause}");
        assert_eq!(told.reason, *reason);
        assert_eq!(story(&told), [NOTED, ASKED, (state, cause)]);
        assert_eq!(told.history.last().unwrap().reason, *reason);
    }

    // A confirm settles whatever is open, changes nothing about what was withdrawn, and contradicts
    // what never committed.
    stage.confirm("logistics", &ids).await;
    for (id, (_, state, cause, ..)) in &cases {
        let (state_then, cause_then) = match *state {
            "never_committed" => ("conflict", "conflict"),
            "withdrawn" => ("withdrawn", "withdrawn"),
            _ => ("confirmed", "confirmed"),
        };
        stage.recorded("logistics", *id).await;
        let told = told(&stage, *id, cause_then).await;
        assert_eq!(told.state, state_then);
        assert_eq!(told.confirms.len(), 1, "{cause}");
        let mut expected = vec![NOTED, ASKED, (*state, *cause)];
        if state_then != *state {
            expected.push((state_then, cause_then));
        }
        assert_eq!(story(&told), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_word_of_a_consumer_is_told_as_what_it_is() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let now = stage.count("SELECT (extract(epoch FROM now()) * 1000)::bigint").await;
    let (rejected, retrying) = (MessageId::generate(), MessageId::generate());
    stage
        .say(
            "logistics",
            vec![
                json!({ "id": rejected.to_string(), "outcome": "rejected", "reason": "no such article" }),
                json!({ "id": retrying.to_string(), "outcome": "retrying", "until_ms": now + 60_000, "reason": "locked" }),
            ],
        )
        .await;
    stage.reports_are_recorded(2).await;
    stage.check(&[rejected, retrying], &["logistics"]).await;

    let parked = told(&stage, rejected, "rejected").await;
    assert_eq!(parked.reason, "rejected by logistics: no such article");
    assert_eq!(story(&parked), [NOTED, ("parked", "rejected")]);
    assert_eq!((parked.reports.len(), parked.reports[0].outcome.as_str()), (1, "rejected"));

    let waiting = told(&stage, retrying, "consumer_retrying").await;
    assert_eq!(waiting.state, "waiting");
    assert!(waiting.next_at_ms >= now + 60_000, "{waiting:?}");
    assert_eq!(story(&waiting), [NOTED], "a deferral leaves no event");
    assert_eq!(
        (waiting.reports[0].outcome.as_str(), waiting.reports[0].until_ms),
        ("retrying", now + 60_000)
    );
    assert!(upstream.asked().is_empty(), "neither is asked for");

    stage.confirm("logistics", &[rejected, retrying]).await;
    for id in [rejected, retrying] {
        let told = told(&stage, id, "confirmed").await;
        assert!(told.reports.is_empty(), "the confirm stands for it: {told:?}");
    }
}

//! How fast upstreams are asked, and whether they are asked at all.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::eventually;

use crate::stage::{DEADLINE, Stage};
use crate::upstream::{Upstream, say};

/// More than the calls that are under way when the first of them fail.
const MANY: usize = 500;

async fn many(stage: &Stage) -> Vec<MessageId> {
    let ids: Vec<MessageId> = (0..MANY).map(|_| MessageId::generate()).collect();
    stage.check(&ids, &["logistics"]).await;
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_is_left_alone_and_no_attempt_is_used() {
    let mut upstream = Upstream::down(say(Outcome::NeverCommitted));
    let stage = Stage::new(&upstream, &["resend-delay=200ms", "max-resends=1"]).await;
    many(&stage).await;
    eventually("it is tried with one call now and then", DEADLINE, async || {
        let rounds = "SELECT count(DISTINCT at) FROM overdue_event WHERE to_state = 'asking'";
        stage.count(rounds).await >= 3
    })
    .await;
    let untouched = "SELECT count(*) FROM overdue WHERE returned = 0 AND resends = 0";
    let untouched = stage.count(untouched).await;
    assert!(untouched > 300, "most were not even tried: {untouched}");
    upstream.listen().await;
    eventually("all are asked for", DEADLINE, async || {
        match stage.count("SELECT count(*) FROM overdue WHERE state = 'never_committed'").await {
            500 => Ok(()),
            closed => Err(closed),
        }
    })
    .await;
    let asked = upstream.asked();
    assert!(asked.iter().all(|asked| asked.attempt == 2), "no attempt was used meanwhile");
    assert_eq!(asked.len(), MANY);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_alone_for_too_long_is_parked_all_the_same() {
    let upstream = Upstream::down(say(Outcome::Republished));
    let stage = Stage::new(&upstream, &["resend-delay=200ms", "park-after=3s"]).await;
    many(&stage).await;
    eventually("all are parked", DEADLINE, async || {
        match stage.count("SELECT count(*) FROM overdue WHERE state = 'parked'").await {
            500 => Ok(()),
            parked => Err(parked),
        }
    })
    .await;
    let untouched = "SELECT count(*) FROM overdue o WHERE cause = 'open_too_long' AND NOT EXISTS (
         SELECT FROM overdue_event e WHERE e.message_id = o.message_id AND to_state = 'asking')";
    assert!(stage.count(untouched).await > 300, "most were not even tried");
    assert_eq!(stage.count("SELECT count(*) FROM overdue WHERE resends > 0").await, 0);
}

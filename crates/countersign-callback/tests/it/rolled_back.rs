//! Rolled-back notices: they settle the checks of their armings, and nothing else.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{SOON, eventually};
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::upstream::{Upstream, say};

const ARMING: &str = "00000000000000aa";
const ANOTHER: &str = "ffffffffffffffaa";

async fn notice(stage: &Stage, upstream: &str, rolled_back: &[(MessageId, &str)]) {
    let entry =
        |(id, arming): &(MessageId, &str)| json!({ "id": id.to_string(), "arming": arming });
    let entries: Vec<Value> = rolled_back.iter().map(entry).collect();
    let body = json!({ "v": 1, "upstream": upstream, "rolled_back": entries });
    stage.publish("countersign.rolled_back", "", body.to_string().as_bytes()).await;
}

async fn recorded(stage: &Stage, count: i64) {
    stage.counts("recorded notices", "SELECT count(*) FROM rolled_back", count).await;
}

fn checked(id: MessageId, arming: &str) -> Value {
    json!({ "id": id.to_string(), "consumers": ["logistics", "billing"], "arming": arming })
}

async fn due(stage: &Stage, messages: Vec<Value>) {
    let check = json!({ "v": 1, "upstream": "orders", "armed_at_ms": 1, "messages": messages });
    stage.due(&check).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_settles_the_check_of_its_arming_without_a_call_and_no_other() {
    let upstream = Upstream::always(say(Outcome::InProgress)).await;
    let mut stage = Stage::new(&upstream, &[]).await;
    let [settled, again, elsewhere, half, unsaid, last] =
        std::array::from_fn(|_| MessageId::generate());
    notice(&stage, "orders", &[(settled, ARMING), (again, ARMING), (half, ARMING)]).await;
    notice(&stage, "returns", &[(elsewhere, ARMING)]).await;
    notice(&stage, "orders", &[(settled, ARMING)]).await;
    recorded(&stage, 4).await;
    stage.confirm("billing", &[half]).await;
    stage.recorded("billing", half).await;

    due(
        &stage,
        vec![
            checked(settled, ARMING),
            // Rolled back, armed again and committed: this is the check of the second arming.
            checked(again, ANOTHER),
            // The other upstream's word is not about this one's message.
            checked(elsewhere, ARMING),
            // Whoever says that it was rolled back: somebody has it.
            checked(half, ARMING),
            json!({ "id": unsaid.to_string(), "consumers": ["logistics"] }),
        ],
    )
    .await;
    for id in [again, elsewhere, half, unsaid] {
        upstream.is_asked(id, 2).await;
    }
    assert_eq!(stage.row(settled).await, None, "nothing is written");

    // A check of nothing but settled messages does nothing, and harms nobody behind it.
    due(&stage, vec![checked(settled, ARMING)]).await;
    due(&stage, vec![checked(last, ARMING)]).await;
    upstream.is_asked(last, 2).await;
    assert_eq!(stage.row(settled).await, None);
    assert_eq!(upstream.attempts(settled), [] as [u32; 0]);

    // A later arming of the same id is judged by its own check.
    due(&stage, vec![checked(settled, ANOTHER)]).await;
    upstream.is_asked(settled, 2).await;
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_in_part_nonsense_counts_for_the_rest_and_an_old_one_for_nothing() {
    let upstream = Upstream::always(say(Outcome::InProgress)).await;
    let mut stage = Stage::new(&upstream, &["retention=30d"]).await;
    let (good, bad) = (MessageId::generate(), MessageId::generate());
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    let old = MessageId::from_parts(good.time().before(day * 3), [0; 10]);
    notice(&stage, "orders", &[(bad, "nonsense"), (good, ARMING), (old, ARMING)]).await;
    recorded(&stage, 1).await;
    let quarantined = eventually("the bad entry is in quarantine", SOON, async || {
        let peeked = stage.vhost.peek("countersign.quarantine", 10).await;
        if peeked.is_empty() { Err(peeked) } else { Ok(peeked) }
    })
    .await;
    assert_eq!(quarantined.len(), 1, "{quarantined:?}");
    assert_eq!(quarantined[0].json()["rolled_back"][0]["id"], bad.to_string());
    stage.all_is_acked_in_the_end().await;
}

//! The fence against transactions that commit at the same moment.

use std::time::Duration;

use countersign_producer::{ErrorKind, MessageId};
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::id_of_age;
use futures_util::StreamExt as _;

use crate::stage::{Stage, insert, outcome, settings, thing};

/// Commits a thing, unless it is fenced.
async fn try_place(stage: &Stage, id: MessageId) {
    let armed = stage.publisher.arm(thing("a race").with_id(id)).unwrap().held().await.unwrap();
    let mut tx = match armed.begin(&stage.pool).await {
        Ok(tx) => tx,
        Err(error) if error.kind() == ErrorKind::Fenced => return,
        Err(other) => panic!("{other:?}"),
    };
    insert(&mut tx, id, "a race").await.unwrap();
    // The message is not published: only a resend could publish it.
    drop(tx.commit().await.unwrap());
}

/// With a look (a plain SELECT) instead of the fence, some callers would be told "never committed"
/// of a transaction that commits a moment later.
#[tokio::test]
async fn never_committed_is_true_for_ever() {
    const RACES: usize = 200;
    let stage = Stage::new(settings()).await;
    let races = (0..RACES).map(|_| async {
        let id = id_of_age(Duration::from_secs(60));
        let asking = async {
            tokio::time::sleep(Duration::from_micros(fastrand::u64(..6_000))).await;
            outcome(&stage.ask(id, 0).await)
        };
        let ((), answer) = tokio::join!(try_place(&stage, id), asking);
        (id, answer)
    });
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    let answers: Vec<_> = futures_util::stream::iter(races).buffer_unordered(4).collect().await;
    for (id, answer) in answers {
        *seen.entry(answer.as_str_name()).or_default() += 1;
        let is_true = match answer {
            Outcome::NeverCommitted => !stage.is_committed(id).await,
            Outcome::Republished | Outcome::InProgress => stage.is_committed(id).await,
            _ => false,
        };
        assert!(is_true, "{id} was answered {answer:?}");
    }
    assert!(seen.len() >= 2, "no race at all: {seen:?}");
}

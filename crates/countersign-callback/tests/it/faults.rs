//! The database or the broker goes away.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{Database, Postgres, PostgresSettings, eventually};

use crate::stage::{DEADLINE, Stage};
use crate::upstream::{Upstream, say};

const QUARANTINE: &str = "countersign.quarantine";

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_what_is_in_hand_is_held_and_stored_when_it_is_back() {
    let mut postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let database = Database::create(postgres.address()).await.unwrap();
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::with_database(database, &[]).await;
    stage.upstream(&upstream);
    stage.start().await;
    let first = MessageId::generate();
    stage.confirm("logistics", &[first]).await;
    stage.recorded("logistics", first).await;

    postgres.kill().await.unwrap();
    let ids: Vec<MessageId> = (0..300).map(|_| MessageId::generate()).collect();
    let late = MessageId::generate();
    for ids in ids.chunks(10) {
        stage.confirm("logistics", ids).await;
    }
    stage.check(&[late], &["logistics"]).await;
    eventually("all of it is in hand", DEADLINE, async || {
        let confirms = stage.vhost.depth("countersign.confirm.0").await.unwrap_or_default();
        let checks = stage.vhost.depth("countersign.check.due").await.unwrap_or_default();
        if (confirms.unacked, checks.unacked) == (30, 1) { Ok(()) } else { Err((confirms, checks)) }
    })
    .await;

    postgres.restart().await.unwrap();
    stage.reconnect().await;
    eventually("all are recorded", DEADLINE, async || {
        match stage.count("SELECT count(*) FROM confirmation").await {
            301 => Ok(()),
            recorded => Err(recorded),
        }
    })
    .await;
    upstream.is_asked(late, 2).await;
    stage.all_is_acked_in_the_end().await;
    let held = stage.vhost.take(QUARANTINE, 10).await;
    assert!(held.is_empty(), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_connections_are_cut_everything_goes_on() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &["max-resends=1"]).await;
    eventually("the broker has closed both connections", DEADLINE, async || {
        stage.vhost.close_connections("countersign-callback").await >= 2
    })
    .await;
    let (id, late) = (MessageId::generate(), MessageId::generate());
    stage.confirm("logistics", &[id]).await;
    stage.check(&[late], &["logistics"]).await;
    stage.publish("countersign.confirm", "0", b"garbage").await;
    stage.recorded("logistics", id).await;
    upstream.is_asked(late, 2).await;
    eventually("the garbage is in quarantine", DEADLINE, async || {
        stage.vhost.depth(QUARANTINE).await.unwrap_or_default().total() == 1
    })
    .await;
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_quarantine_takes_nothing_what_belongs_there_is_held() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    stage.vhost.delete_queue(QUARANTINE).await;
    stage.publish("countersign.confirm", "0", b"garbage").await;
    eventually("the garbage is held", DEADLINE, async || {
        match stage.vhost.depth("countersign.confirm.0").await.unwrap_or_default() {
            depth if depth.unacked == 1 => Ok(()),
            depth => Err(depth),
        }
    })
    .await;
    let arguments = serde_json::json!({ "x-max-length": 100_000 });
    stage.vhost.declare_queue(QUARANTINE, arguments).await;
    stage.vhost.bind(QUARANTINE, QUARANTINE, "").await;
    eventually("the garbage is in quarantine", DEADLINE, async || {
        let bodies: Vec<_> =
            stage.vhost.take(QUARANTINE, 10).await.into_iter().map(|peeked| peeked.body).collect();
        if bodies == [b"garbage"] { Ok(()) } else { Err(bodies) }
    })
    .await;
    stage.all_is_acked_in_the_end().await;
}

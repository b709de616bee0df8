//! The database or the broker goes away.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::ListJobsRequest;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{Database, Postgres, PostgresSettings, SOON, eventually};
use tokio::task::JoinSet;
use tonic::Code;

use crate::stage::{QUARANTINE, Stage};
use crate::upstream::{Upstream, say};

const CONFIRMS: &str = "countersign.confirm.0";

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
    // A test sees the row before the service hears of its commit: killed in between, Postgres would
    // leave the first confirm in hand as well.
    stage.are_acked(CONFIRMS, 1).await;

    postgres.kill().await.unwrap();
    let ids: Vec<MessageId> = (0..300).map(|_| MessageId::generate()).collect();
    let late = MessageId::generate();
    for ids in ids.chunks(10) {
        stage.confirm("logistics", ids).await;
    }
    stage.check(&[late], &["logistics"]).await;
    stage.are_held(CONFIRMS, 30).await;
    stage.are_held("countersign.check.due", 1).await;

    postgres.restart().await.unwrap();
    stage.reconnect().await;
    stage.confirms_are_recorded(301).await;
    upstream.is_asked(late, 2).await;
    stage.all_is_acked_in_the_end().await;
    let held = stage.vhost.take(QUARANTINE, 10).await;
    assert!(held.is_empty(), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_connections_are_cut_everything_goes_on() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &["max-resends=1"]).await;
    eventually("the broker has closed both connections", SOON, async || {
        stage.vhost.close_connections("countersign-callback").await >= 2
    })
    .await;
    let (id, late) = (MessageId::generate(), MessageId::generate());
    stage.confirm("logistics", &[id]).await;
    stage.check(&[late], &["logistics"]).await;
    stage.publish("countersign.confirm", "0", b"garbage").await;
    stage.recorded("logistics", id).await;
    upstream.is_asked(late, 2).await;
    stage.are_quarantined(1).await;
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_quarantine_takes_nothing_what_belongs_there_is_held() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    stage.vhost.delete_queue(QUARANTINE).await;
    stage.publish("countersign.confirm", "0", b"garbage").await;
    stage.are_held(CONFIRMS, 1).await;
    let arguments = serde_json::json!({ "x-max-length": 100_000 });
    stage.vhost.declare_queue(QUARANTINE, arguments).await;
    stage.vhost.bind(QUARANTINE, QUARANTINE, "").await;
    eventually("the garbage is in quarantine", SOON, async || {
        let bodies: Vec<_> =
            stage.vhost.take(QUARANTINE, 10).await.into_iter().map(|peeked| peeked.body).collect();
        if bodies == [b"garbage"] { Ok(()) } else { Err(bodies) }
    })
    .await;
    stage.all_is_acked_in_the_end().await;
}

/// As somebody does who leaves a page open that asks each second about a million rows.
#[tokio::test(flavor = "multi_thread")]
async fn people_s_queries_hold_up_no_confirm() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    // No query about jobs gets its answer.
    let mut slow = stage.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE job IN ACCESS EXCLUSIVE MODE").execute(&mut *slow).await.unwrap();
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        let mut admin = stage.admin();
        asking.spawn(async move { admin.list_jobs(ListJobsRequest::default()).await });
    }
    let first = asking.join_next().await.unwrap().unwrap().unwrap_err();
    for _ in 0..20 {
        let id = MessageId::generate();
        stage.confirm("logistics", &[id]).await;
        stage.recorded("logistics", id).await;
    }
    let mut refused = vec![first];
    while let Some(answer) = asking.join_next().await {
        refused.push(answer.unwrap().unwrap_err());
    }
    slow.rollback().await.unwrap();
    for status in &refused {
        let (code, text) = (status.code(), status.message());
        let is_slow = code == Code::DeadlineExceeded && text.contains("longer than 5 s");
        let is_one_of_many = code == Code::Unavailable && text.contains("as many queries");
        assert!(is_slow || is_one_of_many, "{status}");
    }
    assert!(refused.iter().any(|status| status.code() == Code::Unavailable));
    stage.admin().list_jobs(ListJobsRequest::default()).await.unwrap();
}

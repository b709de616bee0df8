//! What an upstream's sweep is told.

use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::find_unconfirmed_request::SweepProgress;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::{FindUnconfirmedRequest, JobAction};
use countersign_testbed::{SOON, eventually};
use tonic::Code;

use crate::acting::{TOKEN, create, request, with_token};
use crate::stage::{DATABASE, Stage};
use crate::upstream::{Upstream, say};

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_is_told_what_nobody_confirmed_and_nobody_would_ask_for() {
    let upstream = Upstream::always(say(Outcome::Withdrawn)).await;
    let stage = Stage::new(&upstream, &["max-resends=0"]).await;
    let [confirmed, half, parked, closed, elsewhere, lost] =
        std::array::from_fn(|_| MessageId::generate());
    stage.confirm("logistics", &[confirmed, half]).await;
    stage.confirm("billing", &[confirmed]).await;
    let both: &[&str] = &["logistics", "billing"];
    stage.check(&[parked, closed], both).await;
    stage.check_of("returns", &[elsewhere], &["logistics"]).await;
    stage.state(parked, "parked").await;
    stage.state(closed, "parked").await;
    stage.state(elsewhere, "parked").await;
    stage.confirm("logistics", &[closed]).await;
    stage.confirm("billing", &[closed]).await;
    stage.state(closed, "confirmed").await;
    stage.recorded("billing", confirmed).await;

    let old =
        MessageId::from_parts(lost.time().before(Duration::from_secs(40 * 24 * 60 * 60)), [0; 10]);
    let asked = [confirmed, half, parked, closed, elsewhere, lost, old];
    let asked: Vec<_> = asked.iter().map(|id| (id.to_string(), both)).collect();
    let answer = stage.find_unconfirmed("orders", &asked).await.unwrap();
    let mut expected = [half, elsewhere, lost].map(|id| id.to_string());
    expected.sort();
    assert_eq!(answer.unconfirmed, expected);
    assert_eq!(answer.too_old, [old.to_string()]);

    // Who has to confirm it is the asker's word, and another upstream's rows are not its own.
    let logistics: &[&str] = &["logistics"];
    let asked = [(half.to_string(), logistics), (parked.to_string(), logistics)];
    let answer = stage.find_unconfirmed("returns", &asked).await.unwrap();
    assert_eq!(answer.unconfirmed, [parked.to_string()]);

    assert_eq!(stage.row(lost).await, None, "it changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_asks_nonsense_is_told_what_to_do() {
    let upstream = Upstream::always(say(Outcome::Withdrawn)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let asked = [("nonsense".to_owned(), &["logistics"][..])];
    let refused = stage.find_unconfirmed("orders", &asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("send it as a UUIDv7"), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_still_lies_in_the_broker_counts() {
    let upstream = Upstream::always(say(Outcome::Withdrawn)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let (confirmed, lost) = (MessageId::generate(), MessageId::generate());
    // As when the service comes back after an outage: it has the confirm in hand, and has not
    // recorded it yet.
    let mut lock = stage.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE confirmation IN SHARE MODE").execute(&mut *lock).await.unwrap();
    stage.confirm("logistics", &[confirmed]).await;
    let release = async {
        let marker = "SELECT count(*) FROM confirm_marker WHERE returned_at IS NULL";
        eventually("the question waits for a marker", SOON, async || stage.count(marker).await > 0)
            .await;
        lock.rollback().await.unwrap();
    };
    let logistics: &[&str] = &["logistics"];
    let asked = [confirmed, lost].map(|id| (id.to_string(), logistics));
    let (answer, ()) = tokio::join!(stage.find_unconfirmed("orders", &asked), release);
    assert_eq!(answer.unwrap().unconfirmed, [lost.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_does_not_speak_for_a_consumer_that_it_does_not_wait_for() {
    let upstream = Upstream::always(say(Outcome::Withdrawn)).await;
    let stage = Stage::new(&upstream, &["max-resends=0", TOKEN]).await;
    let [parked, confirmed, closed] = std::array::from_fn(|_| MessageId::generate());
    stage.check(&[parked, confirmed, closed], &["logistics"]).await;
    stage.rows_are("parked", 3).await;
    stage.confirm("logistics", &[confirmed]).await;
    stage.state(confirmed, "confirmed").await;
    create(&stage, request(JobAction::Close, &[closed])).await;
    stage.state(closed, "closed_by_hand").await;

    let both: &[&str] = &["logistics", "billing"];
    let asked: Vec<_> = [parked, confirmed, closed].map(|id| (id.to_string(), both)).into();
    let answer = stage.find_unconfirmed("orders", &asked).await.unwrap();
    let mut expected = [parked, confirmed].map(|id| id.to_string());
    expected.sort();
    assert_eq!(answer.unconfirmed, expected, "what an operator closed stays closed");

    // The fresh check that the sweep arms adds the consumer, and the next sweep knows the message.
    stage.check(&[parked, confirmed], both).await;
    let waits_for_both = "SELECT count(*) FROM overdue WHERE cardinality(consumers) = 2";
    stage.counts("rows that wait for both", waits_for_both, 2).await;
    let answer = stage.find_unconfirmed("orders", &asked).await.unwrap();
    assert_eq!(answer.unconfirmed, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_the_sweep_is_behind_is_told() {
    let upstream = Upstream::always(say(Outcome::Withdrawn)).await;
    let stage = Stage::new(&upstream, &[TOKEN]).await;
    let tell = async |upstream: &str, token: &str, behind_ms| {
        let request = FindUnconfirmedRequest {
            upstream: upstream.to_owned(),
            database: DATABASE.to_owned(),
            sweep: Some(SweepProgress {
                check_delay_ms: 5_000,
                behind_ms,
                walk_at_ms: 1_795_000_000_000,
                walk_began_at_ms: 1_795_000_001_000,
            }),
            ..FindUnconfirmedRequest::default()
        };
        stage.admin().find_unconfirmed(with_token(token, request)).await.unwrap();
    };
    tell("returns", "another", 1).await;
    tell("orders", "let-me-in", 7_200_000).await;
    let [orders] = &*stage.upstreams().await else { panic!("a stranger's word counts") };
    let [sweep] = &*orders.sweeps else { panic!("{orders:?}") };
    assert_eq!((sweep.database.as_str(), sweep.check_delay_ms), (DATABASE, 5_000));
    assert_eq!((sweep.behind_ms, sweep.walk_at_ms), (7_200_000, 1_795_000_000_000));
    assert!(orders.summary.contains("its sweep is 2h behind"), "{}", orders.summary);

    tell("orders", "let-me-in", 0).await;
    let [orders] = &*stage.upstreams().await else { panic!("one upstream") };
    assert_eq!((orders.sweeps[0].behind_ms, orders.summary.as_str()), (0, ""));
}

//! Only the upstream that is meant, with the database that is meant, closes a message for good.

use countersign_callback::Timing;
use countersign_protocol::MessageId;
use countersign_protocol::grpc::RequestResendResponse;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{SOON, eventually};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::stage::{DATABASE, Stage};
use crate::upstream::{Reply, Upstream, say, saying};

const OTHER: &str = "00000000-0000-4000-8000-000000000000";

/// A check of a message that names the usual database.
async fn check(stage: &Stage, id: MessageId, consumers: &[&str]) {
    check_in(DATABASE, stage, id, consumers).await;
}

async fn check_in(database: &str, stage: &Stage, id: MessageId, consumers: &[&str]) {
    let message = json!({ "id": id.to_string(), "consumers": consumers });
    let check = json!({
        "v": 1, "upstream": "orders", "database": database, "armed_at_ms": 1, "messages": [message],
    });
    stage.due(&check).await;
}

const DISPUTED: &str =
    "SELECT count(*) FROM overdue WHERE database = '00000000-0000-0000-0000-000000000000'";

async fn summary_says(stage: &Stage, part: &str) {
    eventually(&format!("the upstream's summary says {part:?}"), SOON, async || {
        let summary = stage.upstreams().await.remove(0).summary;
        if summary.contains(part) { Ok(()) } else { Err(summary) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_meant_for_another_costs_no_attempt_and_heals_when_the_address_is_right() {
    let wrong = RequestResendResponse {
        reason: "upstream orders is meant; this is payments".to_owned(),
        ..saying(Outcome::Misdirected)
    };
    let upstream = Upstream::always(Reply::SayAsIs(wrong)).await;
    let stage = Stage::new(&upstream, &["resend-delay=200ms"]).await;
    let id = MessageId::generate();
    check(&stage, id, &["logistics"]).await;
    let row = stage.row_when(id, "misdirected", |row| row.calls_not_made >= 2).await;
    assert_eq!((row.state.as_str(), row.resends), ("waiting", 0));
    assert!(row.reason.contains("upstream orders is meant; this is payments"), "{}", row.reason);
    summary_says(&stage, "its address leads elsewhere: upstream orders is meant").await;
    let asked = upstream.asked().remove(0);
    assert_eq!((asked.upstream.as_str(), asked.database.as_str()), ("orders", DATABASE));

    upstream.reply(|_| say(Outcome::Republished));
    stage.row_when(id, "sent again", |row| row.resends == 1).await;
    stage.confirm("logistics", &[id]).await;
    stage.state(id, "confirmed").await;
    eventually("the summary is quiet", SOON, async || {
        let summary = stage.upstreams().await.remove(0).summary;
        if summary.is_empty() { Ok(()) } else { Err(summary) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_word_in_another_name_closes_nothing() {
    for outcome in [Outcome::NeverCommitted, Outcome::Withdrawn, Outcome::Unknown] {
        for (upstream, database) in
            [("", ""), ("payments", DATABASE), ("orders", OTHER), ("orders", "")]
        {
            let (upstream, database) = (upstream.to_owned(), database.to_owned());
            let answer = RequestResendResponse { upstream, database, ..saying(outcome) };
            let shown = format!("{answer:?}");
            let upstream = Upstream::always(Reply::SayAsIs(answer)).await;
            let stage = Stage::new(&upstream, &["resend-delay=200ms"]).await;
            let id = MessageId::generate();
            check(&stage, id, &["logistics"]).await;
            let row = stage.row_when(id, "misdirected", |row| row.calls_not_made >= 1).await;
            assert_eq!((row.state.as_str(), row.resends), ("waiting", 0), "{shown}");
            assert!(row.reason.contains("leads elsewhere"), "{shown}: {}", row.reason);
            upstream.reply(move |_| say(outcome));
            let end = match outcome {
                Outcome::NeverCommitted => "never_committed",
                Outcome::Withdrawn => "withdrawn",
                _ => "parked",
            };
            stage.state(id, end).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sweep_finds_committed_is_opened_again_though_an_upstream_has_denied_it() {
    let upstream = Upstream::always(say(Outcome::NeverCommitted)).await;
    let stage = Stage::new(&upstream, &["park-after=10s"]).await;
    let [denied, other] = std::array::from_fn(|_| MessageId::generate());
    // Its check names no database: an upstream without one has closed it.
    stage.check(&[denied, other], &["logistics"]).await;
    stage.state(denied, "never_committed").await;
    stage.state(other, "never_committed").await;
    // Closed for longer than a message may be open.
    sqlx::query("UPDATE overdue SET since = now() - interval '1 hour'")
        .execute(&stage.pool)
        .await
        .unwrap();

    upstream.reply(|_| say(Outcome::Republished));
    let asked = [(denied.to_string(), &["logistics"][..])];
    let answer = stage.find_unconfirmed("orders", &asked).await.unwrap();
    assert_eq!(answer.contradicted, [denied.to_string()]);
    assert_eq!(answer.unconfirmed, [""; 0], "it needs no fresh check");
    let again = upstream.is_asked(denied, 3).await;
    assert_eq!(again.database, DATABASE, "the one that the sweep names");
    stage.confirm("logistics", &[denied]).await;
    stage.state(denied, "confirmed").await;
    assert_eq!(
        stage.history(denied).await,
        [
            "waiting",
            "asking",
            "never_committed",
            "conflict",
            "waiting",
            "asking",
            "waiting",
            "confirmed"
        ]
    );
    stage.state(other, "never_committed").await;
    let again = stage.find_unconfirmed("orders", &asked).await.unwrap();
    assert_eq!(again.contradicted, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_checks_of_one_id_unite_their_consumers() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let [open, confirmed, at_once] = std::array::from_fn(|_| MessageId::generate());
    stage.check(&[open, confirmed], &["logistics"]).await;
    stage.state(open, "waiting").await;
    stage.confirm("logistics", &[confirmed]).await;
    stage.state(confirmed, "confirmed").await;
    let further =
        |id: MessageId, names: &[&str]| json!({ "id": id.to_string(), "consumers": names });
    let check = json!({ "v": 1, "upstream": "orders", "database": DATABASE, "armed_at_ms": 1, "messages": [
        further(open, &["billing"]), further(confirmed, &["billing"]),
        further(at_once, &["billing"]), further(at_once, &["logistics"]),
    ] });
    stage.due(&check).await;
    let both = ["billing", "logistics"];
    for id in [open, confirmed, at_once] {
        eventually(&format!("{id} waits for both"), SOON, async || {
            let told = stage.told(&id.to_string()).await.unwrap();
            let is_open = told.state == "waiting" || told.state == "asking";
            if is_open && told.consumers == both && told.database == DATABASE {
                Ok(())
            } else {
                Err(told)
            }
        })
        .await;
    }
    stage.confirm("logistics", &[open, at_once]).await;
    stage.recorded("logistics", at_once).await;
    stage.confirm("billing", &[open, confirmed, at_once]).await;
    for id in [open, confirmed, at_once] {
        stage.state(id, "confirmed").await;
        assert_eq!(stage.row(id).await.unwrap().reason, "confirmed by billing, logistics");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_databases_that_checks_name_neither_is_asked_to_deny_the_message() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let id = MessageId::generate();
    for database in [DATABASE, OTHER, DATABASE] {
        check_in(database, &stage, id, &["logistics"]).await;
    }
    stage.counts("disputed rows", DISPUTED, 1).await;
    assert_eq!(stage.told(&id.to_string()).await.unwrap().database, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_word_of_a_database_that_is_not_the_rows_any_more_closes_nothing() {
    let upstream = Upstream::always(Reply::Hang).await;
    let mut stage = Stage::empty(&[]).await;
    stage.upstream(&upstream);
    let mut config = stage.config();
    // As long as the test may take: the answer comes when it lets it.
    config.timing = Timing { call: SOON * 2, lease: SOON * 4 };
    stage.start_with(config).await;
    for (outcome, disputed) in [(Outcome::NeverCommitted, 1), (Outcome::Withdrawn, 2)] {
        let let_go = CancellationToken::new();
        let reply = Reply::Once(let_go.clone(), saying(outcome));
        upstream.reply(move |_| reply.clone());
        let id = MessageId::generate();
        check(&stage, id, &["logistics"]).await;
        upstream.is_asked(id, 2).await;
        // While it is asked, a check says that the message is in another database, too.
        check_in(OTHER, &stage, id, &["logistics"]).await;
        stage.counts("disputed rows", DISPUTED, disputed).await;
        let_go.cancel();
        let row = stage.row_when(id, "answered for", |row| row.state != "asking").await;
        assert_eq!(row.state, "waiting", "{outcome:?}: {row:?}");
        assert!(row.reason.contains("is no longer the one that is meant"), "{row:?}");
        assert_eq!((row.resends, row.calls_not_made), (0, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_without_the_token_corrects_nothing_and_is_told_all_the_same() {
    let upstream = Upstream::always(say(Outcome::NeverCommitted)).await;
    let stage = Stage::new(&upstream, &["token=let-me-in"]).await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    let before = stage.state(id, "never_committed").await;
    let asked = [(id.to_string(), &["logistics"][..])];
    let answer = stage.find_unconfirmed("orders", &asked).await.unwrap();
    assert_eq!(answer.contradicted, [id.to_string()]);
    assert_eq!(stage.row(id).await, Some(before));
}

//! Overdue messages: judged, asked for, resolved or parked.

use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::RequestResendResponse;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::Proxy;
use serde_json::json;
use tonic::Status;

use crate::stage::{Row, Stage};
use crate::upstream::{Reply, Upstream, say, saying};

/// Soon enough for a test to see it, and no sooner than what it has to come after.
const RESENT_SOON: &str = "resend-delay=200ms";

async fn overdue(reply: Reply, settings: &[&str]) -> (Upstream, Stage, MessageId) {
    let upstream = Upstream::always(reply).await;
    let stage = Stage::new(&upstream, settings).await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    (upstream, stage, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_resend_the_confirm_is_waited_for() {
    let (upstream, stage, id) = overdue(say(Outcome::Republished), &[]).await;
    upstream.is_asked(id, 2).await;
    let row = stage.row_when(id, "sent again", |row| row.reason.contains("attempt 2")).await;
    assert_eq!((row.state.as_str(), row.resends), ("waiting", 1));
    let told = stage.told(&id.to_string()).await.unwrap();
    let now = stage.count("SELECT (extract(epoch FROM now()) * 1000)::bigint").await;
    assert!((20_000..=40_000).contains(&(told.next_at_ms - now)), "{told:?} at {now}");
    stage.confirm("logistics", &[id]).await;
    let row = stage.state(id, "confirmed").await;
    assert!(row.reason.contains("logistics"), "{row:?}");
    assert_eq!(stage.history(id).await, ["waiting", "asking", "waiting", "confirmed"]);
    assert_eq!(upstream.attempts(id), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_confirms_is_parked_after_the_last_resend() {
    let (upstream, stage, id) =
        overdue(say(Outcome::Republished), &[RESENT_SOON, "max-resends=3"]).await;
    let row = stage.state(id, "parked").await;
    assert_eq!(upstream.attempts(id), [2, 3, 4]);
    assert_eq!(row.resends, 3);
    for part in ["logistics", "3 of 3 resends", "attempt 4"] {
        assert!(row.reason.contains(part), "{part} is missing: {row:?}");
    }
    let gaps: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM at - lag(at) OVER (ORDER BY event_id))::float8
         FROM overdue_event WHERE message_id = $1 AND to_state = 'asking'
         ORDER BY event_id OFFSET 1",
    )
    .bind(id.uuid())
    .fetch_all(&stage.pool)
    .await
    .unwrap();
    assert!(gaps[0] >= 0.2 && gaps[1] >= 0.4, "the delay doubles: {gaps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_confirm_resolves_a_parked_message() {
    let (upstream, stage, id) = overdue(say(Outcome::Republished), &["max-resends=0"]).await;
    stage.state(id, "parked").await;
    stage.confirm("logistics", &[id]).await;
    stage.state(id, "confirmed").await;
    assert_eq!(upstream.attempts(id), [] as [u32; 0]);
    assert_eq!(stage.history(id).await, ["waiting", "parked", "confirmed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_while_the_upstream_is_being_asked_resolves_the_message() {
    let answer = Reply::After(Duration::from_secs(2), saying(Outcome::Republished));
    let (upstream, stage, id) = overdue(answer, &[]).await;
    upstream.is_asked(id, 2).await;
    stage.confirm("logistics", &[id]).await;
    stage.state(id, "confirmed").await;
    assert_eq!(stage.history(id).await, ["waiting", "asking", "confirmed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_last_word_of_an_upstream_closes_or_parks_the_message() {
    for (outcome, state, reason) in [
        (Outcome::NeverCommitted, "never_committed", "orders says that its transaction never"),
        (Outcome::Withdrawn, "withdrawn", "withdrawn by orders: so says the upstream"),
        (Outcome::Unknown, "parked", "orders cannot tell: so says the upstream"),
    ] {
        let (upstream, stage, id) = overdue(say(outcome), &[RESENT_SOON]).await;
        let row = stage.state(id, state).await;
        assert!(row.reason.contains(reason), "{row:?}");
        assert_eq!(upstream.attempts(id), [2], "{state}");
        assert_eq!(stage.history(id).await, ["waiting", "asking", state]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_surely_did_nothing_uses_up_no_attempt() {
    let in_progress = RequestResendResponse { retry_after_ms: 1, ..saying(Outcome::InProgress) };
    for reply in [
        Reply::Say(in_progress),
        say(Outcome::NotPublished),
        Reply::Fail(Status::unimplemented("what?")),
        Reply::Fail(Status::unauthenticated("who?")),
        Reply::Fail(Status::permission_denied("you?")),
        Reply::Fail(Status::invalid_argument("which?")),
        Reply::Fail(Status::resource_exhausted("later")),
    ] {
        let name = format!("{reply:?}");
        let (upstream, stage, id) = overdue(reply, &[RESENT_SOON, "max-resends=1"]).await;
        let row = stage
            .row_when(id, &format!("asked for twice: {name}"), |row| row.calls_not_made >= 2)
            .await;
        assert_eq!(row.resends.max(1), 1, "{name}");
        assert!(upstream.attempts(id).iter().all(|attempt| *attempt == 2), "{name}");
        upstream.reply(|_| say(Outcome::Republished));
        stage.row_when(id, "sent again", |row| row.resends == 1 && row.calls_not_made == 0).await;
        stage.confirm("logistics", &[id]).await;
        stage.state(id, "confirmed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_costs_no_attempt_and_is_asked_when_it_is_back() {
    let mut upstream = Upstream::down(say(Outcome::Republished));
    let stage = Stage::new(&upstream, &[RESENT_SOON, "max-resends=1"]).await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    let row = stage.row_when(id, "not asked twice", |row| row.calls_not_made >= 2).await;
    assert_eq!(row.resends.max(1), 1);
    stage
        .row_when(id, "refused", |row| {
            row.state == "waiting" && row.reason.contains("could not be asked") && row.resends == 0
        })
        .await;
    upstream.listen().await;
    upstream.is_asked(id, 2).await;
    stage.confirm("logistics", &[id]).await;
    stage.state(id, "confirmed").await;
    assert_eq!(upstream.attempts(id), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve_costs_no_attempt() {
    let mut stage =
        Stage::empty(&[RESENT_SOON, "upstreams=orders=http://nowhere.invalid:50051"]).await;
    stage.start().await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    let row = stage
        .row_when(id, "not asked", |row| row.state == "waiting" && row.calls_not_made >= 1)
        .await;
    assert_eq!(row.resends, 0, "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_in_time_uses_up_an_attempt() {
    for reply in [Reply::Hang, Reply::Fail(Status::internal("oh")), say(Outcome::Unspecified)] {
        let name = format!("{reply:?}");
        let upstream = Upstream::always(reply).await;
        let mut stage = Stage::empty(&[RESENT_SOON, "max-resends=2"]).await;
        stage.upstream(&upstream);
        let mut config = stage.config();
        config.timing.call = Duration::from_millis(300);
        stage.start_with(config).await;
        let id = MessageId::generate();
        stage.check(&[id], &["logistics"]).await;
        let row = stage.state(id, "parked").await;
        assert_eq!(upstream.attempts(id), [2, 3], "{name}");
        assert!(row.reason.contains("no answer from orders"), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_matter_is_it_is_parked_in_the_end() {
    let upstream = Upstream::down(say(Outcome::Republished));
    let mut stage = Stage::new(&upstream, &[RESENT_SOON, "park-after=5s"]).await;
    let id = MessageId::generate();
    let of_nobody = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    stage.check_of("unheard-of", &[of_nobody], &["logistics"]).await;
    let waiting = stage.row_when(of_nobody, "deferred", |row| row.reason.contains("address")).await;
    assert_eq!(waiting.state, "waiting");
    assert_eq!(
        waiting.reason,
        "no address for upstream unheard-of: add it to COUNTERSIGN_UPSTREAMS"
    );
    let row = stage.state(id, "parked").await;
    assert!(row.reason.contains("unresolved for"), "{row:?}");
    assert!(row.reason.contains("orders could not be asked"), "{row:?}");
    let row = stage.state(of_nobody, "parked").await;
    assert!(row.reason.contains("unresolved for"), "{row:?}");
    assert!(row.reason.contains("last: no address"), "{row:?}");
    assert_eq!(stage.history(of_nobody).await, ["waiting", "parked"]);
    stage.stop_first().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_parks_an_open_message() {
    let (upstream, stage, id) = overdue(say(Outcome::Republished), &[]).await;
    upstream.is_asked(id, 2).await;
    stage.row_when(id, "sent again", |row| row.state == "waiting" && row.resends == 1).await;
    let rejected =
        json!({ "id": id.to_string(), "outcome": "rejected", "reason": "no such article" });
    stage.say("logistics", vec![rejected]).await;
    let row = stage.state(id, "parked").await;
    assert_eq!(row.reason, "rejected by logistics: no such article");
    stage.confirm("logistics", &[id]).await;
    stage.state(id, "confirmed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_by_one_consumer_ends_no_healing_for_the_other() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let id = MessageId::generate();
    let rejected = json!({ "id": id.to_string(), "outcome": "rejected", "reason": "sold out" });
    stage.say("logistics", vec![rejected]).await;
    stage.reports_are_recorded(1).await;
    stage.check(&[id], &["billing", "logistics"]).await;
    let asked = upstream.is_asked(id, 2).await;
    assert_eq!(asked.missing_consumers, ["billing"], "the other one has said no");
    stage.confirm("billing", &[id]).await;
    let row = stage.state(id, "parked").await;
    assert_eq!(row.reason, "rejected by logistics: sold out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hangs_behind_a_balancer_is_left_for_another() {
    const MESSAGES: usize = 10;
    let hung = Upstream::always(Reply::Hang).await;
    let well = Upstream::always(say(Outcome::Republished)).await;
    // The first connection leads to the replica that hangs, for as long as it lasts.
    let balancer = Proxy::start(hung.address()).await.unwrap();
    let mut stage = Stage::empty(&[RESENT_SOON, "max-resends=5"]).await;
    stage.set(&format!("upstreams=orders=http://{}", balancer.address()));
    let mut config = stage.config();
    config.timing.call = Duration::from_millis(300);
    stage.start_with(config).await;
    let ids: Vec<_> = (0..MESSAGES).map(|_| MessageId::generate()).collect();
    stage.check(&ids, &["logistics"]).await;
    hung.is_asked(ids[0], 2).await;
    balancer.lead_to(well.address());
    for id in ids {
        stage.row_when(id, "sent again", |row| row.reason.contains("sent again")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rejected_before_its_check_came_due_is_parked_without_asking() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let id = MessageId::generate();
    let rejected =
        json!({ "id": id.to_string(), "outcome": "rejected", "reason": "no such article" });
    stage.say("logistics", vec![rejected]).await;
    stage.reports_are_recorded(1).await;
    stage.check(&[id], &["logistics"]).await;
    stage.state(id, "parked").await;
    assert_eq!(upstream.attempts(id), [] as [u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_tries_again_by_itself_is_left_alone_until_then() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[]).await;
    let (soon, later) = (MessageId::generate(), MessageId::generate());
    let now = stage.count("SELECT (extract(epoch FROM now()) * 1000)::bigint").await;
    let retrying = |id: MessageId, until_ms: i64| json!({ "id": id.to_string(), "outcome": "retrying", "until_ms": until_ms, "reason": "locked" });
    // Judged again once the confirm of that try has had 5 s to arrive.
    stage.say("logistics", vec![retrying(soon, now - 3_000), retrying(later, now + 60_000)]).await;
    stage.reports_are_recorded(2).await;
    stage.check(&[soon, later], &["logistics"]).await;
    let row = stage.row_when(later, "deferred", |row| row.reason.contains("will try again")).await;
    assert_eq!((row.state.as_str(), row.resends), ("waiting", 0));
    upstream.is_asked(soon, 2).await;
    assert_eq!(upstream.attempts(later), [] as [u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_of_what_never_committed_is_a_conflict() {
    let (_upstream, stage, id) = overdue(say(Outcome::NeverCommitted), &[]).await;
    stage.state(id, "never_committed").await;
    stage.confirm("somebody-else", &[id]).await;
    let row = stage.state(id, "conflict").await;
    assert!(row.reason.contains("somebody-else"), "{row:?}");
    assert_eq!(stage.history(id).await, ["waiting", "asking", "never_committed", "conflict"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn never_committed_is_a_conflict_too_when_the_confirm_came_during_the_call() {
    for (confirmed_by, before) in [("logistics", "confirmed"), ("somebody-else", "asking")] {
        let answer = Reply::After(Duration::from_secs(2), saying(Outcome::NeverCommitted));
        let (upstream, stage, id) = overdue(answer, &[]).await;
        upstream.is_asked(id, 2).await;
        stage.confirm(confirmed_by, &[id]).await;
        stage.recorded(confirmed_by, id).await;
        stage.state(id, before).await;
        let row: Row = stage.state(id, "conflict").await;
        assert!(row.reason.contains(confirmed_by), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_confirm_has_missed_is_settled_without_asking() {
    let mut upstream = Upstream::down(say(Outcome::Republished));
    let stage = Stage::new(&upstream, &[RESENT_SOON]).await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    stage.row_when(id, "waiting for its upstream", |row| row.calls_not_made >= 1).await;
    // As if the transaction that confirms it had not seen the row.
    sqlx::query("INSERT INTO confirmation (message_id, consumer) VALUES ($1, 'logistics')")
        .bind(id.uuid())
        .execute(&stage.pool)
        .await
        .unwrap();
    upstream.listen().await;
    stage.state(id, "confirmed").await;
    assert_eq!(upstream.attempts(id), [] as [u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_confirm_and_a_check_at_the_same_moment_one_sees_the_other() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &["resend-delay=500ms", "max-resends=50"]).await;
    let rounds: Vec<Vec<MessageId>> =
        (0..20).map(|_| (0..200).map(|_| MessageId::generate()).collect()).collect();
    for ids in &rounds {
        let half = ids.len() / 2;
        tokio::join!(
            stage.check(ids, &["billing", "logistics"]),
            stage.confirm("logistics", ids),
            stage.confirm("billing", &ids[..half]),
            stage.confirm("billing", &ids[half..]),
        );
    }
    stage.confirms_are_recorded(8_000).await;
    stage.all_is_acked_in_the_end().await;
    stage.start().await;
    let open = "SELECT count(*) FROM overdue WHERE state <> 'confirmed'";
    stage.counts("messages left open", open, 0).await;
}

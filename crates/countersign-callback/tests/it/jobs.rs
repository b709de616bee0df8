//! Jobs: what operators do about messages, one by one or many at once.

use std::collections::{BTreeMap, BTreeSet};

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::{CancelJobRequest, CreateJobRequest, JobAction, ListJobsRequest};
use countersign_testbed::{SOON, eventually};
use serde_json::json;
use tonic::Code;

use crate::acting::{
    PARKING, TOKEN, WATCHING, cancel, create, ended, everything_parked, get, items, job_when,
    parked, request, results, try_create, with_token,
};
use crate::stage::Stage;
use crate::upstream::{Reply, Upstream, say};

/// Confirms what the upstream is asked for, as the consumer does, until that is so many messages.
async fn confirm_what_is_asked(stage: &Stage, upstream: &Upstream, messages: usize) {
    let mut confirmed = BTreeSet::new();
    eventually(&format!("{messages} are asked for"), SOON, async || {
        let asked: BTreeSet<MessageId> =
            upstream.asked().iter().map(|asked| asked.message_id.parse().unwrap()).collect();
        let new: Vec<MessageId> = asked.difference(&confirmed).copied().collect();
        for ids in new.chunks(500) {
            stage.confirm("logistics", ids).await;
        }
        confirmed = asked;
        if confirmed.len() == messages { Ok(()) } else { Err(confirmed.len()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_has_succeeded_when_it_is_confirmed_and_not_before() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &WATCHING).await;
    let id = parked(&stage, 1).await[0];
    let job = create(&stage, request(JobAction::Resend, &[id])).await;
    upstream.is_asked(id, 2).await;
    stage.row_when(id, "sent again", |row| row.state == "waiting" && row.resends == 1).await;
    let told = get(&stage, &job).await;
    assert_eq!((told.state.as_str(), told.begun, told.succeeded), ("running", 1, 0), "{told:?}");
    stage.confirm("logistics", &[id]).await;
    let told = ended(&stage, &job).await;
    assert_eq!((told.state.as_str(), told.begun, told.succeeded), ("done", 0, 1), "{told:?}");
    assert_eq!(upstream.attempts(id), [2], "one more, and no other");
    assert_eq!(results(&stage, &job).await[&id.to_string()], "succeeded: confirmed by logistics");

    let story = stage.told(&id.to_string()).await.unwrap();
    assert_eq!(story.state, "confirmed");
    let by_hand = &story.history[0];
    assert_eq!((by_hand.from_state.as_str(), by_hand.to_state.as_str()), ("parked", "waiting"));
    assert_eq!(by_hand.cause, "asked_by_hand");
    assert_eq!(by_hand.reason, "ada asked for a resend: the consumer is mended");
    let [action] = story.actions.as_slice() else { panic!("{:?}", story.actions) };
    assert_eq!((action.action.as_str(), action.who.as_str()), ("resend", "ada"));
    assert_eq!(
        (action.job_id.as_str(), action.result.as_str()),
        (job.as_str(), "succeeded: confirmed by logistics")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_that_nobody_confirms_has_failed_with_its_reason() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &PARKING).await;
    let id = parked(&stage, 1).await[0];
    // As long as that nobody would still try, had not somebody asked.
    sqlx::query("UPDATE overdue SET since = now() - interval '90 d'")
        .execute(&stage.pool)
        .await
        .unwrap();
    let job = create(&stage, request(JobAction::Resend, &[id])).await;
    let told = ended(&stage, &job).await;
    assert_eq!((told.state.as_str(), told.failed), ("done", 1), "{told:?}");
    let result = &results(&stage, &job).await[&id.to_string()];
    assert!(result.contains("parked: not confirmed by logistics after 1 of 1 resends"), "{result}");
    assert_eq!(upstream.attempts(id), [2]);
    // And once more, after which it may be asked for once more.
    let job = create(&stage, request(JobAction::Resend, &[id])).await;
    assert_eq!(ended(&stage, &job).await.failed, 1);
    assert_eq!(upstream.attempts(id), [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_from_before_does_not_count_and_a_new_one_does() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &[TOKEN, "resend-delay=1h"]).await;
    let id = MessageId::generate();
    let rejected = || {
        let entry =
            json!({ "id": id.to_string(), "outcome": "rejected", "reason": "no such article" });
        stage.say("logistics", vec![entry])
    };
    rejected().await;
    stage.check(&[id], &["logistics"]).await;
    stage.state(id, "parked").await;
    assert_eq!(upstream.attempts(id), [] as [u32; 0]);
    let job = create(&stage, request(JobAction::Resend, &[id])).await;
    upstream.is_asked(id, 2).await;
    stage.row_when(id, "sent again", |row| row.state == "waiting" && row.resends == 1).await;
    rejected().await;
    ended(&stage, &job).await;
    let result = &results(&stage, &job).await[&id.to_string()];
    assert_eq!(result, "failed: parked: rejected by logistics: no such article");
    let reports = stage.told(&id.to_string()).await.unwrap().reports;
    assert_eq!(reports.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_job_has_its_own_result() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &WATCHING).await;
    let ids = parked(&stage, 3).await;
    let (confirmed, unknown) = (MessageId::generate(), MessageId::generate());
    stage.confirm("logistics", &[confirmed]).await;
    stage.recorded("logistics", confirmed).await;
    sqlx::query(
        "UPDATE overdue SET state = 'never_committed', closed_at = now(), reason = 'so it says'
         WHERE message_id = $1",
    )
    .bind(ids[1].uuid())
    .execute(&stage.pool)
    .await
    .unwrap();
    let gone = ids[2].to_string();
    upstream.reply(move |asked| {
        let withdrawn = asked.message_id == gone;
        say(if withdrawn { Outcome::Withdrawn } else { Outcome::Republished })
    });
    let all = [ids[0], ids[1], ids[2], confirmed, unknown];
    let wanted = CreateJobRequest { all_at_once: true, ..request(JobAction::Resend, &all) };
    let dry = CreateJobRequest { dry_run: true, ..wanted.clone() };
    let dry = stage.admin().create_job(dry).await.expect("no token is needed").into_inner();
    assert_eq!(dry.job.unwrap().items, 5);
    let groups: BTreeMap<&str, u64> =
        dry.groups.iter().map(|group| (group.state.as_str(), group.messages)).collect();
    assert_eq!(groups, [("never_committed", 1), ("parked", 2), ("unknown", 2)].into());
    assert_eq!(stage.count("SELECT count(*) FROM job").await, 0, "nothing is kept");

    let job = create(&stage, wanted).await;
    upstream.is_asked(ids[0], 2).await;
    stage.confirm("logistics", &ids[..1]).await;
    let told = ended(&stage, &job).await;
    assert_eq!((told.succeeded, told.failed, told.skipped), (1, 1, 3), "{told:?}");
    let results = results(&stage, &job).await;
    let result = |id: MessageId| results[&id.to_string()].as_str();
    assert_eq!(result(ids[0]), "succeeded: confirmed by logistics");
    assert_eq!(result(ids[1]), "skipped: never_committed already: so it says");
    assert!(result(ids[2]).starts_with("failed: withdrawn: "), "{}", result(ids[2]));
    assert_eq!(result(confirmed), "skipped: confirmed by logistics");
    assert_eq!(result(unknown), "skipped: not overdue: nothing is known of it here");
    assert_eq!(items(&stage, &job, "skipped").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_closed_by_hand_stays_closed_and_what_is_noted_stays_as_it_is() {
    let upstream = Upstream::always(Reply::Hang).await;
    let stage = Stage::new(&upstream, &[TOKEN]).await;
    let asked_for = MessageId::generate();
    stage.check(&[asked_for], &["logistics"]).await;
    upstream.is_asked(asked_for, 2).await;
    let parked = parked(&stage, 2).await;
    let noted = create(&stage, request(JobAction::Note, &[parked[0], asked_for])).await;
    assert_eq!(ended(&stage, &noted).await.succeeded, 2);
    assert_eq!(stage.row(parked[0]).await.unwrap().state, "parked");
    let closed = create(&stage, request(JobAction::Close, &[parked[0], asked_for])).await;
    assert_eq!(ended(&stage, &closed).await.succeeded, 2);
    for id in [parked[0], asked_for] {
        let row = stage.state(id, "closed_by_hand").await;
        assert_eq!(row.reason, "closed by ada: the consumer is mended");
        stage.confirm("logistics", &[id]).await;
        stage.recorded("logistics", id).await;
    }
    // Later than the confirms of these: so they have been looked at.
    stage.confirm("logistics", &[parked[1]]).await;
    stage.state(parked[1], "confirmed").await;
    let story = stage.told(&parked[0].to_string()).await.unwrap();
    assert_eq!((story.state.as_str(), story.confirms.len()), ("closed_by_hand", 1));
    let actions: Vec<(&str, &str)> = story
        .actions
        .iter()
        .map(|action| (action.action.as_str(), action.result.as_str()))
        .collect();
    assert_eq!(
        actions,
        [("note", "succeeded: noted"), ("close", "succeeded: closed; it was parked: given up"),]
    );
    let again = create(&stage, request(JobAction::Resend, &[parked[0]])).await;
    assert_eq!(ended(&stage, &again).await.skipped, 1, "for good");
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_that_fail_stop_the_job() {
    let upstream = Upstream::always(say(Outcome::Unknown)).await;
    let stage = Stage::new(&upstream, &PARKING).await;
    let ids = parked(&stage, 40).await;
    let wanted =
        CreateJobRequest { filter: everything_parked(), ..request(JobAction::Resend, &[]) };
    let job = create(&stage, wanted).await;
    let told = ended(&stage, &job).await;
    assert_eq!((told.state.as_str(), told.failed, told.skipped), ("stopped", 1, 39), "{told:?}");
    assert!(told.reason.contains("1 of 1 failed"), "{told:?}");
    assert_eq!(upstream.asked().len(), 1);
    assert_eq!(upstream.attempts(ids[0]), [2], "the one that is overdue for the longest time");
    let skipped = &items(&stage, &job, "skipped").await[0];
    assert!(skipped.result.starts_with("not begun: the job was stopped: 1 of 1"), "{skipped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_that_are_confirmed_let_the_rest_follow() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &WATCHING).await;
    let ids = parked(&stage, 60).await;
    let wanted =
        CreateJobRequest { filter: everything_parked(), ..request(JobAction::Resend, &[]) };
    let job = create(&stage, wanted).await;
    confirm_what_is_asked(&stage, &upstream, 60).await;
    let told = ended(&stage, &job).await;
    assert_eq!((told.state.as_str(), told.succeeded), ("done", 60), "{told:?}");
    assert_eq!(told.step, 0);
    let asked: Vec<String> = upstream.asked().into_iter().map(|asked| asked.message_id).collect();
    let first = |many: usize| -> Vec<String> {
        let mut some: Vec<String> = ids[..many].iter().map(MessageId::to_string).collect();
        some.sort();
        some
    };
    for step in [1, 5, 25, 60] {
        let mut some = asked[..step].to_vec();
        some.sort();
        assert_eq!(some, first(step), "the first {step} were asked for before any other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_begins_nothing_more_and_what_is_begun_comes_to_its_end() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &WATCHING).await;
    let ids = parked(&stage, 30).await;
    let wanted = CreateJobRequest {
        all_at_once: true,
        rate_per_second: 0.001,
        filter: everything_parked(),
        ..request(JobAction::Resend, &[])
    };
    let job = create(&stage, wanted).await;
    upstream.is_asked(ids[0], 2).await;
    let told = cancel(&stage, &job).await;
    assert_eq!(
        (told.state.as_str(), told.reason.as_str()),
        ("cancelled", "bob: it is the wrong ones")
    );
    let told = job_when(&stage, &job, "left out", |job| job.pending == 0).await;
    assert_eq!((told.begun, told.skipped, told.ended_at_ms), (1, 29, 0), "{told:?}");
    stage.confirm("logistics", &ids[..1]).await;
    let told = ended(&stage, &job).await;
    assert_eq!((told.state.as_str(), told.succeeded), ("cancelled", 1), "{told:?}");
    assert_eq!(upstream.asked().len(), 1);
    assert_eq!(cancel(&stage, &job).await, told, "there is nothing left to cancel");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_begin_each_item_once() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &WATCHING).await;
    stage.start().await;
    parked(&stage, 1_200).await;
    let wanted = CreateJobRequest {
        all_at_once: true,
        filter: everything_parked(),
        ..request(JobAction::Resend, &[])
    };
    let job = create(&stage, wanted).await;
    confirm_what_is_asked(&stage, &upstream, 1_200).await;
    let told = ended(&stage, &job).await;
    assert_eq!((told.succeeded, told.failed, told.skipped), (1_200, 0, 0), "{told:?}");
    assert_eq!(upstream.asked().len(), 1_200);
    stage.stop_first().await;
    stage.stop_first().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_messages_is_done_and_still_on_record() {
    let mut stage = Stage::empty(&[TOKEN]).await;
    stage.start().await;
    let wanted = CreateJobRequest { filter: everything_parked(), ..request(JobAction::Close, &[]) };
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job = create(&stage, wanted.clone()).await;
        assert_eq!(get(&stage, &job).await.state, "done");
        jobs.insert(0, job);
    }
    let mut listed = Vec::new();
    let mut page_token = String::new();
    for _ in 0..2 {
        let request = ListJobsRequest { page_size: 2, page_token };
        let page = stage.admin().list_jobs(request).await.unwrap().into_inner();
        listed.extend(page.jobs.into_iter().map(|job| job.job_id));
        page_token = page.next_page_token;
    }
    assert_eq!(listed, jobs, "newest first");
    assert_eq!(page_token, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_the_token_changes_something() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let id = MessageId::generate();
    let wanted = request(JobAction::Note, &[id]);
    let cancelling = || CancelJobRequest {
        job_id: MessageId::generate().to_string(),
        who: "ada".to_owned(),
        why: "so".to_owned(),
    };
    let none_set = stage.admin().create_job(wanted.clone()).await.unwrap_err();
    assert_eq!(none_set.code(), Code::FailedPrecondition);
    assert!(none_set.message().contains("COUNTERSIGN_TOKEN"), "{none_set:?}");
    stage.stop_first().await;
    stage.set(TOKEN);
    stage.start().await;
    let codes = [
        stage.admin().create_job(wanted.clone()).await.unwrap_err().code(),
        stage.admin().cancel_job(cancelling()).await.unwrap_err().code(),
        stage.admin().create_job(with_token("wrong", wanted.clone())).await.unwrap_err().code(),
        stage.admin().cancel_job(with_token("wrong", cancelling())).await.unwrap_err().code(),
        stage.admin().cancel_job(with_token("let-me-in", cancelling())).await.unwrap_err().code(),
    ];
    assert_eq!(
        codes,
        [
            Code::Unauthenticated,
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::PermissionDenied,
            Code::NotFound
        ]
    );
    assert_eq!(stage.count("SELECT count(*) FROM job").await, 0);
    try_create(&stage, wanted).await.unwrap();
}

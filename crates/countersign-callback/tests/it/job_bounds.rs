//! What bounds jobs: their messages' age, their callers' retries, and how long their items are kept.

use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::{CreateJobRequest, JobAction};
use tonic::Code;
use uuid::Uuid;

use crate::acting::{
    WATCHING, create, ended, get, items, job_when, parked, request, results, try_create,
};
use crate::stage::Stage;
use crate::upstream::{Upstream, say};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_could_not_be_confirmed_any_more_is_not_sent_again() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut settings = WATCHING.to_vec();
    settings.push("retention=3d");
    let stage = Stage::new(&upstream, &settings).await;
    let id = parked(&stage, 1).await[0];
    let old = MessageId::from_parts(id.time().before(Duration::from_secs(4 * 86_400)), [7; 10]);
    let sql = "UPDATE overdue SET message_id = $1 WHERE message_id = $2";
    sqlx::query(sql).bind(old.uuid()).bind(id.uuid()).execute(&stage.pool).await.unwrap();
    let job = create(&stage, request(JobAction::Resend, &[old])).await;
    let told = ended(&stage, &job).await;
    assert_eq!((told.state.as_str(), told.skipped), ("done", 1), "{told:?}");
    let result = &results(&stage, &job).await[&old.to_string()];
    assert!(result.contains("older than COUNTERSIGN_RETENTION"), "{result}");
    assert_eq!(stage.row(old).await.unwrap().state, "parked");
    assert_eq!(upstream.asked(), []);
    let job = create(&stage, request(JobAction::Close, &[old])).await;
    assert_eq!(ended(&stage, &job).await.succeeded, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_row_remembers_who_had_confirmed() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &WATCHING).await;
    let id = MessageId::generate();
    stage.confirm("logistics", &[id]).await;
    stage.recorded("logistics", id).await;
    stage.check(&[id], &["logistics", "billing"]).await;
    stage.state(id, "parked").await;
    // As after the retention.
    let sql = "DELETE FROM confirmation WHERE message_id = $1";
    sqlx::query(sql).bind(id.uuid()).execute(&stage.pool).await.unwrap();
    create(&stage, request(JobAction::Resend, &[id])).await;
    upstream.is_asked(id, 2).await;
    stage.confirm("billing", &[id]).await;
    stage.state(id, "confirmed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_asked_for_twice_is_made_once() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &WATCHING).await;
    let ids = parked(&stage, 2).await;
    let job_id = Uuid::now_v7().to_string();
    let asked = CreateJobRequest { job_id: job_id.clone(), ..request(JobAction::Note, &ids) };
    for _ in 0..2 {
        assert_eq!(create(&stage, asked.clone()).await, job_id);
    }
    assert_eq!(ended(&stage, &job_id).await.succeeded, 2);
    assert_eq!(stage.count("SELECT count(*) FROM job_item").await, 2);
    for other in [
        CreateJobRequest { who: "bob".to_owned(), ..asked.clone() },
        CreateJobRequest { action: JobAction::Close.into(), ..asked.clone() },
        CreateJobRequest { message_ids: vec![ids[0].to_string()], ..asked.clone() },
    ] {
        let refused = try_create(&stage, other).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_the_messages_of_an_old_job_is_forgotten_and_the_job_is_not() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &WATCHING).await;
    let ids = parked(&stage, 3).await;
    let [old, new] = [0, 1].map(|_| request(JobAction::Note, &ids));
    let (old, new) = (create(&stage, old).await, create(&stage, new).await);
    for job in [&old, &new] {
        ended(&stage, job).await;
    }
    let sql = "UPDATE job SET ended_at = now() - interval '366 days' WHERE job_id = $1::uuid";
    sqlx::query(sql).bind(&old).execute(&stage.pool).await.unwrap();
    // It prunes when it starts.
    stage.stop_first().await;
    stage.start().await;
    job_when(&stage, &old, "forgotten", |job| job.items_forgotten).await;
    assert_eq!(items(&stage, &old, "").await, []);
    assert_eq!((get(&stage, &old).await.succeeded, items(&stage, &new, "").await.len()), (3, 3));
    assert!(!get(&stage, &new).await.items_forgotten);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_told_while_the_rest_is_waited_for() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let stage = Stage::new(&upstream, &WATCHING).await;
    let ids = parked(&stage, 2).await;
    let request = CreateJobRequest { all_at_once: true, ..request(JobAction::Resend, &ids) };
    let job = create(&stage, request).await;
    job_when(&stage, &job, "all is begun", |job| job.begun == 2).await;
    stage.confirm("logistics", &ids[..1]).await;
    job_when(&stage, &job, "one has ended", |job| (job.begun, job.succeeded) == (1, 1)).await;
}

/// One statement counts 10,000 of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_whose_items_end_while_nobody_counts() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &WATCHING).await;
    stage.stop_first().await;
    let job = Uuid::now_v7();
    for sql in [
        "INSERT INTO job (job_id, action, selection, who, why, items, begun, state, step)
         VALUES ($1, 'resend', '', 'ada', 'a trial', 20001, 20001, 'running', 0)",
        "INSERT INTO job_item (job_id, position, message_id, upstream, state, ended_at)
         SELECT $1, n, gen_random_uuid(), 'orders', 'succeeded', now()
         FROM generate_series(1, 20001) AS series (n)",
    ] {
        sqlx::query(sql).bind(job).execute(&stage.pool).await.unwrap();
    }
    stage.start().await;
    assert_eq!(ended(&stage, &job.to_string()).await.succeeded, 20_001);
}

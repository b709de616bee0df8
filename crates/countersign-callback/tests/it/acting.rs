//! What operators do about messages: the calls, and rows to do something about.

use std::collections::BTreeMap;

use countersign_protocol::grpc::{
    CancelJobRequest, CreateJobRequest, CreateJobResponse, GetJobRequest, Job, JobAction, JobItem,
    ListJobItemsRequest, OverdueFilter,
};
use countersign_protocol::{MessageId, Token};
use countersign_testbed::{SOON, eventually};
use tonic::{Request, Status};

use crate::stage::Stage;

pub(crate) const TOKEN: &str = "token=let-me-in";
/// Everything is parked at once, and a resend is given up soon.
pub(crate) const PARKING: [&str; 3] = [TOKEN, "max-resends=0", "resend-delay=300ms"];

/// Everything is parked at once, and a resend is watched for as long as it takes.
pub(crate) const WATCHING: [&str; 3] = [TOKEN, "max-resends=0", "resend-delay=1h"];

/// Parked rows of `orders`, oldest first.
pub(crate) async fn parked(stage: &Stage, count: usize) -> Vec<MessageId> {
    let ids: Vec<MessageId> = (0..count).map(|_| MessageId::generate()).collect();
    sqlx::query(
        "INSERT INTO overdue (message_id, upstream, state, cause, consumers, reason, since)
         SELECT id, 'orders', 'parked', 'resends_used_up', '{logistics}', 'given up',
                now() - interval '1 h' + n * interval '1 ms'
         FROM UNNEST($1::uuid[]) WITH ORDINALITY AS made (id, n)",
    )
    .bind(ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())
    .execute(&stage.pool)
    .await
    .unwrap();
    ids
}

pub(crate) fn request(action: JobAction, ids: &[MessageId]) -> CreateJobRequest {
    CreateJobRequest {
        action: action.into(),
        message_ids: ids.iter().map(MessageId::to_string).collect(),
        who: "ada".to_owned(),
        why: "the consumer is mended".to_owned(),
        ..CreateJobRequest::default()
    }
}

pub(crate) fn everything_parked() -> Option<OverdueFilter> {
    Some(OverdueFilter { states: vec!["parked".to_owned()], ..OverdueFilter::default() })
}

pub(crate) fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    token.parse::<Token>().unwrap().show(request.metadata_mut());
    request
}

pub(crate) async fn try_create(
    stage: &Stage,
    request: CreateJobRequest,
) -> Result<CreateJobResponse, Status> {
    Ok(stage.admin().create_job(with_token("let-me-in", request)).await?.into_inner())
}

pub(crate) async fn create(stage: &Stage, request: CreateJobRequest) -> String {
    try_create(stage, request).await.unwrap().job.unwrap().job_id
}

pub(crate) async fn get(stage: &Stage, job_id: &str) -> Job {
    let request = GetJobRequest { job_id: job_id.to_owned() };
    stage.admin().get_job(request).await.unwrap().into_inner().job.unwrap()
}

pub(crate) async fn cancel(stage: &Stage, job_id: &str) -> Job {
    let request = CancelJobRequest {
        job_id: job_id.to_owned(),
        who: "bob".to_owned(),
        why: "it is the wrong ones".to_owned(),
    };
    let request = with_token("let-me-in", request);
    stage.admin().cancel_job(request).await.unwrap().into_inner().job.unwrap()
}

pub(crate) async fn job_when(
    stage: &Stage,
    job_id: &str,
    what: &str,
    is: impl Fn(&Job) -> bool,
) -> Job {
    eventually(&format!("the job is {what}"), SOON, async || {
        let job = get(stage, job_id).await;
        if is(&job) { Ok(job) } else { Err(job) }
    })
    .await
}

pub(crate) async fn ended(stage: &Stage, job_id: &str) -> Job {
    job_when(stage, job_id, "ended", |job| job.ended_at_ms > 0).await
}

/// All items, several pages of them.
pub(crate) async fn items(stage: &Stage, job_id: &str, state: &str) -> Vec<JobItem> {
    let mut items = Vec::new();
    let mut page_token = String::new();
    loop {
        let (job_id, state) = (job_id.to_owned(), state.to_owned());
        let request = ListJobItemsRequest { job_id, state, page_size: 7, page_token };
        let page = stage.admin().list_job_items(request).await.unwrap().into_inner();
        items.extend(page.items);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return items;
        }
    }
}

/// How many items are in which state, and of each message one.
pub(crate) async fn results(stage: &Stage, job_id: &str) -> BTreeMap<String, String> {
    let items = items(stage, job_id, "").await;
    let told = |item: JobItem| (item.message_id, format!("{}: {}", item.state, item.result));
    items.into_iter().map(told).collect()
}

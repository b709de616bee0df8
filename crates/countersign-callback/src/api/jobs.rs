//! What operators ask of jobs over gRPC, and what the service tells them.

use countersign_protocol::UnixMillis;
use countersign_protocol::grpc::{
    self, CancelJobRequest, CountOverdueResponse, CreateJobRequest, CreateJobResponse, JobAction,
    JobItem, ListJobItemsRequest, ListJobItemsResponse, ListJobsRequest, ListJobsResponse,
    OverdueFilter,
};
use tonic::Status;
use uuid::Uuid;

use crate::api::filter;
use crate::api::overdue::{By, grouped};
use crate::api::page::{self, Page};
use crate::ledger::{Counted, ListedItem};
use crate::rules::job::{ALL_AT_ONCE, Action, FIRST_STEP, ItemState, Job};
use crate::rules::new_job::{NewJob, Selection};

/// The longest name of a person, in characters.
const MAX_WHO: usize = 200;
/// The longest reason, in characters.
const MAX_WHY: usize = 1_000;
/// The slowest rate: one an hour or so. What is slower may as well not be begun.
const MIN_RATE: f64 = 0.000_2;
/// The highest rate: more than any upstream is asked for, and a job without a rate is not slower.
const MAX_RATE: f64 = 1_000_000.0;

/// Reads a job that an operator asks for.
///
/// # Errors
/// `INVALID_ARGUMENT`, with the field and what may stand there.
pub(crate) fn read_new(request: CreateJobRequest) -> Result<NewJob, Status> {
    let action = match request.action() {
        JobAction::Unspecified => {
            return Err(Status::invalid_argument("action: say RESEND, CLOSE or NOTE"));
        }
        JobAction::Resend => Action::Resend,
        JobAction::Close => Action::Close,
        JobAction::Note => Action::Note,
    };
    let rate = request.rate_per_second;
    if rate != 0.0 && !(MIN_RATE..=MAX_RATE).contains(&rate) {
        return Err(Status::invalid_argument(format!(
            "rate_per_second: {rate} is none: give how many are begun in a second, {MIN_RATE} to {MAX_RATE}, or 0 for as fast as it goes"
        )));
    }
    let (who, why) = match request.dry_run {
        true => (String::new(), String::new()),
        false => (said("who", &request.who, MAX_WHO)?, said("why", &request.why, MAX_WHY)?),
    };
    let canaries = action == Action::Resend && !request.all_at_once;
    Ok(NewJob {
        id: if request.job_id.is_empty() { Uuid::now_v7() } else { job_id(&request.job_id)? },
        action,
        selection: selection(&request.message_ids, request.filter)?,
        who,
        why,
        rate: (rate > 0.0).then_some(rate),
        step: if canaries { FIRST_STEP } else { ALL_AT_ONCE },
        dry_run: request.dry_run,
    })
}

/// The answer to a dry run: how many messages the job would be about.
#[must_use]
pub(crate) fn dry_run(new: &NewJob, counted: &[Counted]) -> CreateJobResponse {
    let CountOverdueResponse { groups, total } =
        grouped(counted, &[By::State, By::Upstream, By::Cause]);
    let job = grpc::Job {
        action: action(new.action).into(),
        items: total,
        pending: total,
        step: new.step,
        ..grpc::Job::default()
    };
    CreateJobResponse { job: Some(job), groups }
}

fn action(action: Action) -> JobAction {
    match action {
        Action::Resend => JobAction::Resend,
        Action::Close => JobAction::Close,
        Action::Note => JobAction::Note,
    }
}

fn selection(ids: &[String], filter: Option<OverdueFilter>) -> Result<Selection, Status> {
    match (ids, filter) {
        ([], None) => Err(Status::invalid_argument(
            "message_ids: give the messages, or a filter that says which",
        )),
        ([], Some(filter)) if filter == OverdueFilter::default() => Err(Status::invalid_argument(
            "filter: it is empty, which would be everything: say so by naming states, such as parked",
        )),
        ([], Some(filter)) => Ok(Selection::Matching(filter::read(Some(filter))?)),
        (_, Some(_)) => {
            Err(Status::invalid_argument("filter: message_ids are given too: give one of the two"))
        }
        (ids, None) => {
            let id = |(n, text): (usize, &String)| {
                text.parse().map_err(|why| {
                    Status::invalid_argument(format!(
                        "message_ids[{n}]: {why}; a message's id is a UUIDv7"
                    ))
                })
            };
            ids.iter().enumerate().map(id).collect::<Result<_, _>>().map(Selection::Ids)
        }
    }
}

/// The operator who cancels a job, the job, and the reason.
///
/// # Errors
/// `INVALID_ARGUMENT`, with the field and what may stand there.
pub(crate) fn cancelling(request: &CancelJobRequest) -> Result<(Uuid, String), Status> {
    let id = job_id(&request.job_id)?;
    let (who, why) = (said("who", &request.who, MAX_WHO)?, said("why", &request.why, MAX_WHY)?);
    Ok((id, format!("{who}: {why}")))
}

/// A text that a person has to give.
fn said(field: &str, text: &str, most: usize) -> Result<String, Status> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Status::invalid_argument(format!(
            "{field}: it is empty, and is kept for ever"
        )));
    }
    if text.chars().count() > most {
        return Err(Status::invalid_argument(format!("{field}: use up to {most} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!(
            "{field}: it has a control character, such as a line end: leave it out"
        )));
    }
    Ok(text.to_owned())
}

/// Which job.
///
/// # Errors
/// `INVALID_ARGUMENT` if that is no job's id.
pub(crate) fn job_id(text: &str) -> Result<Uuid, Status> {
    text.parse().map_err(|_| {
        Status::invalid_argument("job_id: it is no UUID: give what CreateJob or ListJobs told")
    })
}

/// The answer about a job that the ledger does not have.
#[must_use]
pub(crate) fn no_such_job(id: Uuid) -> Status {
    Status::not_found(format!("there is no job {id}: ListJobs tells which there are"))
}

/// The answer about a new job whose id another one has.
#[must_use]
pub(crate) fn another_job(id: Uuid) -> Status {
    Status::already_exists(format!("job {id} is about something else: choose a new job_id"))
}

/// A page of jobs that an operator asks for. A job's place is when it was created, in microseconds
/// since 1970, and its id.
pub(crate) type JobsPage = Page<(i64, Uuid)>;

/// Reads which page of jobs an operator asks for.
///
/// # Errors
/// `INVALID_ARGUMENT`, with the field and what may stand there.
pub(crate) fn read_jobs_page(request: &ListJobsRequest) -> Result<JobsPage, Status> {
    let page: JobsPage =
        Page::read("ListJobs", String::new(), &request.page_token, request.page_size)?;
    page.after().map(|(created_at_us, _)| page::moment(created_at_us)).transpose()?;
    Ok(page)
}

/// The page, out of the jobs that were fetched.
#[must_use]
pub(crate) fn jobs_answer(page: &JobsPage, rows: Vec<(i64, Job)>) -> ListJobsResponse {
    let (rows, next_page_token) = page.cut(rows, |(created_at_us, job)| (*created_at_us, job.id));
    let jobs = rows.into_iter().map(|(_, job)| job.into()).collect();
    ListJobsResponse { jobs, next_page_token }
}

/// A page of a job's items that an operator asks for. An item's place is its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ItemsPage {
    /// The job.
    pub(crate) job: Uuid,
    /// Only the items in this state; all if there is none.
    pub(crate) state: Option<ItemState>,
    page: Page<i64>,
}

impl ItemsPage {
    /// Reads what came over gRPC.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, with the field and what may stand there.
    pub(crate) fn read(request: &ListJobItemsRequest) -> Result<Self, Status> {
        let job = job_id(&request.job_id)?;
        let given: &[String] = match request.state.as_str() {
            "" => &[],
            _ => std::slice::from_ref(&request.state),
        };
        let states = filter::words("state", given)?;
        let of = format!("{job} {}", request.state);
        let page = Page::read("ListJobItems", of, &request.page_token, request.page_size)?;
        Ok(Self { job, state: states.first().copied(), page })
    }

    /// The position of the last item of the page before; 0 for the first page.
    #[must_use]
    pub(crate) fn after(&self) -> i64 {
        self.page.after().unwrap_or(0)
    }

    /// See [`Page::limit`].
    #[must_use]
    pub(crate) fn limit(&self) -> u32 {
        self.page.limit()
    }

    /// The page, out of the items that were fetched.
    #[must_use]
    pub(crate) fn answer(&self, rows: Vec<ListedItem>) -> ListJobItemsResponse {
        let (rows, next_page_token) = self.page.cut(rows, |item| item.position);
        let items = rows.into_iter().map(JobItem::from).collect();
        ListJobItemsResponse { items, next_page_token }
    }
}

impl From<Job> for grpc::Job {
    fn from(job: Job) -> Self {
        Self {
            job_id: job.id.to_string(),
            action: action(job.action).into(),
            state: job.state.to_string(),
            pending: job.pending(),
            reason: job.reason,
            who: job.who,
            why: job.why,
            created_at_ms: job.created_at.ms(),
            ended_at_ms: job.ended_at.map_or(0, UnixMillis::ms),
            items: job.items,
            begun: job.begun,
            succeeded: job.ended.succeeded,
            failed: job.ended.failed,
            skipped: job.ended.skipped,
            step: job.step,
            items_forgotten: !job.items_kept,
        }
    }
}

impl From<ListedItem> for JobItem {
    fn from(item: ListedItem) -> Self {
        Self {
            message_id: item.message_id.to_string(),
            upstream: item.upstream,
            state: item.state,
            result: item.result,
            ended_at_ms: item.ended_at_ms.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_protocol::MessageId;
    use tonic::Code;

    use super::*;

    fn request() -> CreateJobRequest {
        CreateJobRequest {
            action: JobAction::Resend.into(),
            message_ids: vec![MessageId::generate().to_string()],
            who: "ada".to_owned(),
            why: " mended ".to_owned(),
            ..CreateJobRequest::default()
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_field_and_what_may_stand_there() {
        let some_filter =
            || Some(OverdueFilter { upstream: "orders".into(), ..Default::default() });
        for (request, part) in [
            (CreateJobRequest { action: 0, ..request() }, "action: say RESEND, CLOSE or NOTE"),
            (CreateJobRequest { message_ids: vec![], ..request() }, "message_ids: give"),
            (CreateJobRequest { message_ids: vec!["7".into()], ..request() }, "message_ids[0]"),
            (CreateJobRequest { filter: some_filter(), ..request() }, "give one of the two"),
            (
                CreateJobRequest {
                    message_ids: vec![],
                    filter: Some(OverdueFilter::default()),
                    ..request()
                },
                "naming states",
            ),
            (CreateJobRequest { who: " ".into(), ..request() }, "who: "),
            (CreateJobRequest { why: String::new(), ..request() }, "why: "),
            (CreateJobRequest { why: "x".repeat(1_001), ..request() }, "why: use up to 1000"),
            (CreateJobRequest { who: "a\0b".into(), ..request() }, "who: it has a control"),
            (CreateJobRequest { rate_per_second: -1.0, ..request() }, "rate_per_second"),
            (CreateJobRequest { rate_per_second: 1e300, ..request() }, "rate_per_second"),
            (CreateJobRequest { rate_per_second: f64::NAN, ..request() }, "rate_per_second"),
        ] {
            let status = read_new(request).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(part), "{part} is missing: {status:?}");
        }
    }

    #[test]
    fn only_resends_have_canaries_and_only_a_dry_run_needs_no_name() {
        let read = |request| read_new(request).unwrap();
        assert_eq!((read(request()).step, read(request()).why.as_str()), (1, "mended"));
        assert_eq!(read(CreateJobRequest { all_at_once: true, ..request() }).step, 0);
        let close = CreateJobRequest { action: JobAction::Close.into(), ..request() };
        assert_eq!(read(close).step, 0);
        let dry = CreateJobRequest { dry_run: true, who: String::new(), ..request() };
        assert!(read(dry).dry_run);
    }
}

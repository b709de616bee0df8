//! What somebody asks of jobs, as it came over gRPC, and what they are told.

use countersign_protocol::UnixMillis;
use countersign_protocol::grpc::get_message_response::Action as Acted;
use countersign_protocol::grpc::{
    self, CancelJobRequest, CountOverdueResponse, CreateJobRequest, CreateJobResponse, JobAction,
    JobItem, ListJobItemsRequest, ListJobItemsResponse, ListJobsRequest, ListJobsResponse,
    OverdueFilter,
};
use tonic::Status;
use uuid::Uuid;

use crate::api::filter;
use crate::api::overdue::{By, grouped};
use crate::api::page::{self, List, no_token};
use crate::ledger::{Counted, KnownAction, ListedItem};
use crate::rules::job::{ALL_AT_ONCE, Action, FIRST_STEP, ItemState, Job};
use crate::rules::new_job::{NewJob, Selection};

/// The longest name of a person, in characters.
const MAX_WHO: usize = 200;
/// The longest reason, in characters.
const MAX_WHY: usize = 1_000;
/// The slowest rate: one an hour or so. What is slower may as well not be begun.
const MIN_RATE: f64 = 0.000_2;

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
    if rate != 0.0 && !(MIN_RATE..=f64::MAX).contains(&rate) {
        return Err(Status::invalid_argument(format!(
            "rate_per_second: {rate} is none: give how many are begun in a second, at least {MIN_RATE}, or 0 for as fast as it goes"
        )));
    }
    let (who, why) = match request.dry_run {
        true => (String::new(), String::new()),
        false => (said("who", &request.who, MAX_WHO)?, said("why", &request.why, MAX_WHY)?),
    };
    let canaries = action == Action::Resend && !request.all_at_once;
    Ok(NewJob {
        id: Uuid::now_v7(),
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

/// Who cancels which job, and why.
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
        Status::invalid_argument("job_id: it is no job's id: give what CreateJob or ListJobs told")
    })
}

/// What is said of a job that nobody created.
#[must_use]
pub(crate) fn no_such_job(id: Uuid) -> Status {
    Status::not_found(format!("there is no job {id}: ListJobs tells which there are"))
}

/// A page of jobs that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedJobs {
    /// After the one created at this time (microseconds since 1970) with this id.
    pub(crate) after: Option<(i64, Uuid)>,
    /// How many.
    pub(crate) size: u32,
}

fn jobs_list() -> List {
    List { name: "ListJobs", of: String::new() }
}

impl WantedJobs {
    /// Reads what came over gRPC.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, with the field and what may stand there.
    pub(crate) fn read(request: &ListJobsRequest) -> Result<Self, Status> {
        let place = |[at, id]: [String; 2]| match (at.parse(), id.parse()) {
            (Ok(at), Ok(id)) => Ok((at, id)),
            _ => Err(no_token()),
        };
        let after = jobs_list().read(&request.page_token)?.map(place).transpose()?;
        Ok(Self { after, size: page::size(request.page_size)? })
    }

    /// The page, out of one row more than it has.
    #[must_use]
    pub(crate) fn answer(&self, mut rows: Vec<(i64, Job)>) -> ListJobsResponse {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        let token =
            |(at, job): &(i64, Job)| jobs_list().token(&[at.to_string(), job.id.to_string()]);
        ListJobsResponse {
            next_page_token: rows.last().filter(|_| more).map(token).unwrap_or_default(),
            jobs: rows.into_iter().map(|(_, job)| job.into()).collect(),
        }
    }
}

/// A page of a job's items that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedItems {
    /// Of which job.
    pub(crate) job: Uuid,
    /// Only those.
    pub(crate) state: Option<ItemState>,
    /// After which position.
    pub(crate) after: i64,
    /// How many.
    pub(crate) size: u32,
    list: List,
}

impl WantedItems {
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
        let states = filter::words("state", given, &ItemState::ALL, ItemState::as_str)?;
        let list = List { name: "ListJobItems", of: format!("{job} {}", request.state) };
        let place = |[position]: [String; 1]| position.parse().map_err(|_| no_token());
        let after = list.read(&request.page_token)?.map(place).transpose()?.unwrap_or(0);
        let state = states.first().copied();
        Ok(Self { job, state, after, size: page::size(request.page_size)?, list })
    }

    /// The page, out of one row more than it has.
    #[must_use]
    pub(crate) fn answer(&self, mut rows: Vec<ListedItem>) -> ListJobItemsResponse {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        let token = |last: &ListedItem| self.list.token(&[last.position.to_string()]);
        ListJobItemsResponse {
            next_page_token: rows.last().filter(|_| more).map(token).unwrap_or_default(),
            items: rows.into_iter().map(JobItem::from).collect(),
        }
    }
}

impl From<Job> for grpc::Job {
    fn from(job: Job) -> Self {
        Self {
            job_id: job.id.to_string(),
            action: action(job.action).into(),
            state: job.state.as_str().to_owned(),
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

impl From<KnownAction> for Acted {
    fn from(known: KnownAction) -> Self {
        let result = match known.result.as_str() {
            "" => known.state,
            result => format!("{}: {result}", known.state),
        };
        Self {
            at_ms: known.at_ms,
            action: known.action,
            who: known.who,
            why: known.why,
            job_id: known.job_id,
            result,
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

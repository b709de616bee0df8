//! What the service tells about messages, and is asked to do about them, over gRPC.

pub(crate) mod overdue;

pub(crate) mod filter;

pub(crate) mod page;

pub(crate) mod jobs;

pub(crate) mod upstreams;

pub(crate) mod sweep;

use std::sync::Arc;

use countersign_protocol::grpc::callback_server::{Callback, CallbackServer};
use countersign_protocol::grpc::get_message_response::{Confirmation, Event, Report};
use countersign_protocol::grpc::{
    self, CancelJobRequest, CancelJobResponse, CountOverdueRequest, CountOverdueResponse,
    CreateJobRequest, CreateJobResponse, FindUnconfirmedRequest, FindUnconfirmedResponse,
    GetJobRequest, GetJobResponse, GetMessageRequest, GetMessageResponse, GetSettingsRequest,
    GetSettingsResponse, ListConsumersRequest, ListConsumersResponse, ListJobItemsRequest,
    ListJobItemsResponse, ListJobsRequest, ListJobsResponse, ListOverdueRequest,
    ListOverdueResponse, ListUpstreamsRequest, ListUpstreamsResponse,
};
use countersign_protocol::{MessageId, Token};
use tokio::sync::Notify;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::warn;
use uuid::Uuid;

use crate::api::jobs::{WantedItems, WantedJobs};
use crate::api::overdue::{By, Wanted, grouped};
use crate::api::sweep::{Question, Sweeps};
use crate::heal::upstreams::Upstreams;
use crate::ledger::{
    Counted, Known, KnownAction, KnownConfirmation, KnownEvent, KnownReport, Ledger,
};
use crate::rules::budget::Pacing;
use crate::rules::new_job::Selection;
use crate::watch::consumers;

/// `countersign.v1.Callback`.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    ledger: Ledger,
    upstreams: Upstreams,
    pacing: Pacing,
    token: Option<Token>,
    job_created: Arc<Notify>,
    sweeps: Sweeps,
    settings: GetSettingsResponse,
}

impl Admin {
    /// The gRPC service over this ledger, with these settings to tell.
    #[must_use]
    pub(crate) fn server(
        ledger: Ledger,
        upstreams: Upstreams,
        pacing: Pacing,
        sweeps: Sweeps,
        token: Option<Token>,
        job_created: Arc<Notify>,
        settings: GetSettingsResponse,
    ) -> CallbackServer<Self> {
        CallbackServer::new(Self {
            ledger,
            upstreams,
            pacing,
            sweeps,
            token,
            job_created,
            settings,
        })
    }

    async fn told_job(&self, id: Uuid) -> Result<grpc::Job, Status> {
        let job = self.ledger.job(id).await.map_err(|e| no_answer(&e))?;
        Ok(job.ok_or_else(|| jobs::no_such_job(id))?.into())
    }

    async fn would_concern(&self, selection: &Selection) -> Result<Vec<Counted>, Status> {
        let counted = match selection {
            Selection::Ids(ids) => self.ledger.count_ids(ids).await,
            Selection::Matching(filter) => self.ledger.count_overdue(filter).await,
        };
        counted.map_err(|e| no_answer(&e))
    }

    /// To be passed before anything is changed.
    fn may_change(&self, metadata: &MetadataMap) -> Result<(), Status> {
        match &self.token {
            Some(token) => token.require(metadata),
            None => Err(Status::failed_precondition(
                "nothing can be changed without a token: set COUNTERSIGN_TOKEN or COUNTERSIGN_TOKEN_FILE of the callback service, and send the same one",
            )),
        }
    }
}

#[tonic::async_trait]
impl Callback for Admin {
    async fn get_message(
        &self,
        request: Request<GetMessageRequest>,
    ) -> Result<Response<GetMessageResponse>, Status> {
        let id: MessageId = request.into_inner().message_id.parse().map_err(|why| {
            Status::invalid_argument(format!("message_id: {why}; a message's id is a UUIDv7"))
        })?;
        let known = self.ledger.message(id).await.map_err(|error| {
            warn!(message_id = %id, %error, "cannot look a message up");
            Status::unavailable("the ledger's database does not answer: try again")
        })?;
        Ok(Response::new(answer(id, known)))
    }

    async fn get_settings(
        &self,
        _: Request<GetSettingsRequest>,
    ) -> Result<Response<GetSettingsResponse>, Status> {
        let now = self.ledger.now().await.map_err(|error| {
            warn!(%error, "cannot read the database's clock");
            Status::unavailable("the ledger's database does not answer: try again")
        })?;
        Ok(Response::new(GetSettingsResponse { now_ms: now.ms(), ..self.settings.clone() }))
    }

    async fn find_unconfirmed(
        &self,
        request: Request<FindUnconfirmedRequest>,
    ) -> Result<Response<FindUnconfirmedResponse>, Status> {
        let question = Question::read(request.into_inner(), self.sweeps.horizons.now())?;
        let forgotten = self.sweeps.forgotten(&question).await.map_err(|why| {
            let cause = std::error::Error::source(&why);
            warn!(upstream = %question.upstream, error = %why, cause, "no answer for a sweep now");
            Status::unavailable(why.to_string())
        })?;
        Ok(Response::new(question.answer(&forgotten)))
    }

    async fn list_overdue(
        &self,
        request: Request<ListOverdueRequest>,
    ) -> Result<Response<ListOverdueResponse>, Status> {
        let wanted = Wanted::read(request.into_inner())?;
        let rows =
            self.ledger.list_overdue(&wanted.filter, wanted.after.as_ref(), wanted.limit()).await;
        Ok(Response::new(wanted.answer(rows.map_err(|e| no_answer(&e))?)))
    }

    async fn count_overdue(
        &self,
        request: Request<CountOverdueRequest>,
    ) -> Result<Response<CountOverdueResponse>, Status> {
        let CountOverdueRequest { filter, group_by } = request.into_inner();
        let (filter, by) = (filter::read(filter)?, By::read(&group_by)?);
        let counted = self.ledger.count_overdue(&filter).await.map_err(|e| no_answer(&e))?;
        Ok(Response::new(grouped(&counted, &by)))
    }

    async fn list_consumers(
        &self,
        _: Request<ListConsumersRequest>,
    ) -> Result<Response<ListConsumersResponse>, Status> {
        let consumers = consumers::list(&self.ledger).await.map_err(|error| {
            warn!(%error, "cannot list consumers");
            Status::unavailable("the ledger's database does not answer: try again")
        })?;
        Ok(Response::new(consumers))
    }

    async fn list_upstreams(
        &self,
        _: Request<ListUpstreamsRequest>,
    ) -> Result<Response<ListUpstreamsResponse>, Status> {
        let known = self.ledger.upstreams().await.map_err(|e| no_answer(&e))?;
        Ok(Response::new(upstreams::answer(&self.upstreams, known, &self.pacing)))
    }

    async fn create_job(
        &self,
        request: Request<CreateJobRequest>,
    ) -> Result<Response<CreateJobResponse>, Status> {
        if !request.get_ref().dry_run {
            self.may_change(request.metadata())?;
        }
        let new = jobs::read_new(request.into_inner())?;
        if new.dry_run {
            return Ok(Response::new(jobs::dry_run(
                &new,
                &self.would_concern(&new.selection).await?,
            )));
        }
        let (id, ledger, created) = (new.id, self.ledger.clone(), Arc::clone(&self.job_created));
        // In a task: a caller that hangs up does not leave half of it done.
        let creating = tokio::spawn(async move {
            let result = ledger.create_job(&new).await;
            created.notify_one();
            result
        });
        creating
            .await
            .map_err(|_| Status::internal("creating the job panicked: see the log"))?
            .map_err(|e| no_answer(&e))?;
        Ok(Response::new(CreateJobResponse { job: Some(self.told_job(id).await?), groups: vec![] }))
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        let id = jobs::job_id(&request.into_inner().job_id)?;
        Ok(Response::new(GetJobResponse { job: Some(self.told_job(id).await?) }))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let wanted = WantedJobs::read(&request.into_inner())?;
        let rows = self.ledger.list_jobs(wanted.after, wanted.size.saturating_add(1)).await;
        Ok(Response::new(wanted.answer(rows.map_err(|e| no_answer(&e))?)))
    }

    async fn list_job_items(
        &self,
        request: Request<ListJobItemsRequest>,
    ) -> Result<Response<ListJobItemsResponse>, Status> {
        let wanted = WantedItems::read(&request.into_inner())?;
        self.told_job(wanted.job).await?;
        let rows = self
            .ledger
            .list_items(wanted.job, wanted.state, wanted.after, wanted.size.saturating_add(1))
            .await;
        Ok(Response::new(wanted.answer(rows.map_err(|e| no_answer(&e))?)))
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        self.may_change(request.metadata())?;
        let (id, reason) = jobs::cancelling(&request.into_inner())?;
        self.ledger.cancel_job(id, &reason).await.map_err(|e| no_answer(&e))?;
        self.job_created.notify_one();
        Ok(Response::new(CancelJobResponse { job: Some(self.told_job(id).await?) }))
    }
}

/// Nothing is known to the caller then but that it may try again; the log says more.
fn no_answer(error: &sqlx::Error) -> Status {
    warn!(%error, "the ledger's database does not answer a person");
    Status::unavailable("the ledger's database does not answer: try again")
}

/// What a person is told about a message.
fn answer(id: MessageId, known: Known) -> GetMessageResponse {
    let Known { overdue, events, confirmations, reports, actions } = known;
    let has_confirmed = |report: &KnownReport| {
        confirmations.iter().any(|confirmation| confirmation.consumer == report.consumer)
    };
    let reports: Vec<Report> =
        reports.into_iter().filter(|report| !has_confirmed(report)).map(Report::from).collect();
    let mut response = GetMessageResponse { message_id: id.to_string(), ..Default::default() };
    if let Some(row) = overdue.into_iter().next() {
        response.state = row.state;
        response.cause = row.cause;
        response.reason = row.reason;
        response.upstream = row.upstream;
        response.consumers = row.consumers;
        response.resends = row.resends;
        if response.state == "waiting" {
            response.next_at_ms = row.due_at_ms.unwrap_or(0);
        }
        let of_this_row = |event: &KnownEvent| event.upstream == response.upstream;
        let of_it = |action: &KnownAction| {
            action.upstream.is_empty() || action.upstream == response.upstream
        };
        response.actions = actions.into_iter().filter(of_it).map(Into::into).collect();
        response.history = events.into_iter().filter(of_this_row).map(Event::from).collect();
    } else if confirmations.is_empty() {
        response.actions = actions.into_iter().map(Into::into).collect();
        response.state = "unknown".to_owned();
        response.reason = match reports.first() {
            Some(report) => format!("not confirmed, but {} by {}", report.outcome, report.consumer),
            None => String::new(),
        };
    } else {
        response.actions = actions.into_iter().map(Into::into).collect();
        response.state = "confirmed".to_owned();
    }
    response.reports = reports;
    response.confirms = confirmations.into_iter().map(Confirmation::from).collect();
    response
}

impl From<KnownConfirmation> for Confirmation {
    fn from(known: KnownConfirmation) -> Self {
        Self {
            consumer: known.consumer,
            recorded_at_ms: known.recorded_at_ms,
            attempt: known.attempt.unwrap_or(0),
        }
    }
}

impl From<KnownReport> for Report {
    fn from(known: KnownReport) -> Self {
        Self {
            consumer: known.consumer,
            outcome: known.outcome,
            reason: known.reason,
            until_ms: known.until_ms.unwrap_or(0),
            recorded_at_ms: known.recorded_at_ms,
        }
    }
}

impl From<KnownEvent> for Event {
    fn from(known: KnownEvent) -> Self {
        Self {
            at_ms: known.at_ms,
            from_state: known.from_state.unwrap_or_default(),
            to_state: known.to_state,
            cause: known.cause,
            reason: known.reason,
            resends: known.resends,
        }
    }
}

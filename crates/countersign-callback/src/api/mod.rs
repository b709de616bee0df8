//! `countersign.v1.Callback`: the gRPC service for operators and for the upstreams' sweeps. Each file
//! reads the requests of its kind into plain values and writes the answers.

mod message;

mod overdue;

mod filter;

mod page;

mod jobs;

mod consumers;

mod upstreams;

pub(crate) mod sweep;

use std::sync::Arc;

use countersign_postgres::sqlstate;
use countersign_protocol::Token;
use countersign_protocol::grpc::callback_server::{Callback, CallbackServer};
use countersign_protocol::grpc::{
    self, CancelJobRequest, CancelJobResponse, CountOverdueRequest, CountOverdueResponse,
    CreateJobRequest, CreateJobResponse, FindUnconfirmedRequest, FindUnconfirmedResponse,
    GetJobRequest, GetJobResponse, GetMessageRequest, GetMessageResponse, GetSettingsRequest,
    GetSettingsResponse, ListConsumersRequest, ListConsumersResponse, ListJobItemsRequest,
    ListJobItemsResponse, ListJobsRequest, ListJobsResponse, ListOverdueRequest,
    ListOverdueResponse, ListUpstreamsRequest, ListUpstreamsResponse,
};
use tokio::sync::Notify;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::{error, warn};
use uuid::Uuid;

use crate::api::jobs::ItemsPage;
use crate::api::overdue::{By, OverduePage, grouped};
use crate::api::sweep::{Question, Sweeps, Unanswered};
use crate::heal::upstreams::Upstreams;
use crate::ledger::{Counted, Created, Ledger, QUERIES_END};
use crate::rules::budget::Pacing;
use crate::rules::new_job::Selection;
use crate::rules::overdue::Key;

/// `countersign.v1.Callback`.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// For what changes something: it needs the token.
    ledger: Ledger,
    /// For queries: everybody who reaches the port may ask.
    queries: Ledger,
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
            queries: ledger.for_people(),
            ledger,
            upstreams,
            pacing,
            sweeps,
            token,
            job_created,
            settings,
        })
    }

    async fn find_job(ledger: &Ledger, id: Uuid) -> Result<grpc::Job, Status> {
        let job = ledger.job(id).await.map_err(|e| no_answer(&e))?;
        Ok(job.ok_or_else(|| jobs::no_such_job(id))?.into())
    }

    async fn count(&self, selection: &Selection) -> Result<Vec<Counted>, Status> {
        let counted = match selection {
            Selection::Ids(ids) => self.queries.count_ids(ids).await,
            Selection::Matching(filter) => self.queries.count_overdue(filter).await,
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
        let id = message::id(&request.into_inner().message_id)?;
        let story = self.queries.story(id).await.map_err(|e| no_answer(&e))?;
        Ok(Response::new(message::answer(story)))
    }

    async fn get_settings(
        &self,
        _: Request<GetSettingsRequest>,
    ) -> Result<Response<GetSettingsResponse>, Status> {
        let now = self.queries.now().await.map_err(|e| no_answer(&e))?;
        Ok(Response::new(GetSettingsResponse { now_ms: now.ms(), ..self.settings.clone() }))
    }

    async fn find_unconfirmed(
        &self,
        request: Request<FindUnconfirmedRequest>,
    ) -> Result<Response<FindUnconfirmedResponse>, Status> {
        // Rows are corrected for an asker that may change something.
        let may_correct = match &self.token {
            Some(token) => token.require(request.metadata()).is_ok(),
            None => true,
        };
        let question = {
            let window = self.sweeps.horizons.now();
            let window = window.map_err(|why| Status::unavailable(why.to_string()))?;
            Question::read(request.into_inner(), window)?
        };
        let refused = |why: Unanswered| {
            let cause = std::error::Error::source(&why);
            warn!(upstream = %question.upstream, error = %why, cause, "no answer for a sweep now");
            Status::unavailable(why.to_string())
        };
        if may_correct {
            self.sweeps.note(&question).await.map_err(refused)?;
        }
        let forgotten = self.sweeps.forgotten(&question).await.map_err(refused)?;
        let contradicted = self.sweeps.contradicted(&question).await.map_err(refused)?;
        if may_correct {
            self.sweeps.correct(&contradicted, question.database).await.map_err(refused)?;
        } else if let Some(Key { message_id, upstream }) = contradicted.first() {
            error!(count = contradicted.len(), %message_id, %upstream, "a sweep says that these messages are committed, and their rows say otherwise; they stay as they are, because the sweep shows no token: set COUNTERSIGN_TOKEN of the upstream");
        }
        Ok(Response::new(question.answer(&forgotten, &contradicted)))
    }

    async fn list_overdue(
        &self,
        request: Request<ListOverdueRequest>,
    ) -> Result<Response<ListOverdueResponse>, Status> {
        let page = OverduePage::read(request.into_inner())?;
        let rows = self.queries.list_overdue(&page.filter, page.after.as_ref(), page.limit()).await;
        Ok(Response::new(page.answer(rows.map_err(|e| no_answer(&e))?)))
    }

    async fn count_overdue(
        &self,
        request: Request<CountOverdueRequest>,
    ) -> Result<Response<CountOverdueResponse>, Status> {
        let CountOverdueRequest { filter, group_by } = request.into_inner();
        let (filter, by) = (filter::read(filter)?, By::read(&group_by)?);
        let counted = self.queries.count_overdue(&filter).await.map_err(|e| no_answer(&e))?;
        Ok(Response::new(grouped(&counted, &by)))
    }

    async fn list_consumers(
        &self,
        _: Request<ListConsumersRequest>,
    ) -> Result<Response<ListConsumersResponse>, Status> {
        let consumers = self.queries.consumers().await.map_err(|e| no_answer(&e))?;
        Ok(Response::new(consumers::answer(consumers)))
    }

    async fn list_upstreams(
        &self,
        _: Request<ListUpstreamsRequest>,
    ) -> Result<Response<ListUpstreamsResponse>, Status> {
        let known = self.queries.upstreams().await.map_err(|e| no_answer(&e))?;
        let sweeps = self.queries.sweeps().await.map_err(|e| no_answer(&e))?;
        Ok(Response::new(upstreams::answer(&self.upstreams, known, sweeps, &self.pacing)))
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
            return Ok(Response::new(jobs::dry_run(&new, &self.count(&new.selection).await?)));
        }
        let (id, ledger, created) = (new.id, self.ledger.clone(), Arc::clone(&self.job_created));
        // In a task: a caller that hangs up does not leave half of it done.
        let creating = tokio::spawn(async move {
            let result = ledger.create_job(&new).await;
            created.notify_one();
            result
        });
        let created = creating
            .await
            .map_err(|_| Status::internal("creating the job panicked: see the log"))?
            .map_err(|e| not_known(&e))?;
        if created == Created::AsAnother {
            return Err(jobs::another_job(id));
        }
        Ok(Response::new(CreateJobResponse {
            job: Some(Self::find_job(&self.ledger, id).await?),
            groups: vec![],
        }))
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        let id = jobs::job_id(&request.into_inner().job_id)?;
        Ok(Response::new(GetJobResponse { job: Some(Self::find_job(&self.queries, id).await?) }))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let page = jobs::read_jobs_page(&request.into_inner())?;
        let rows = self.queries.list_jobs(page.after(), page.limit()).await;
        Ok(Response::new(jobs::jobs_answer(&page, rows.map_err(|e| no_answer(&e))?)))
    }

    async fn list_job_items(
        &self,
        request: Request<ListJobItemsRequest>,
    ) -> Result<Response<ListJobItemsResponse>, Status> {
        let page = ItemsPage::read(&request.into_inner())?;
        // An unknown job is NOT_FOUND, not a list without items.
        Self::find_job(&self.queries, page.job).await?;
        let rows = self.queries.list_items(page.job, page.state, page.after(), page.limit()).await;
        Ok(Response::new(page.answer(rows.map_err(|e| no_answer(&e))?)))
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        self.may_change(request.metadata())?;
        let (id, reason) = jobs::cancelling(&request.into_inner())?;
        self.ledger.cancel_job(id, &reason).await.map_err(|e| no_answer(&e))?;
        self.job_created.notify_one();
        Ok(Response::new(CancelJobResponse { job: Some(Self::find_job(&self.ledger, id).await?) }))
    }
}

/// What a caller is told whose question the database has not answered; the log says more.
fn no_answer(error: &sqlx::Error) -> Status {
    if sqlstate(error).as_deref() == Some(QUERY_CANCELED) {
        warn!(%error, "a person's query took too long");
        return Status::deadline_exceeded(format!(
            "the query took longer than {} s: ask for less, with a filter or a smaller page",
            QUERIES_END.as_secs()
        ));
    }
    warn!(%error, "the ledger's database does not answer a person");
    Status::unavailable(
        "the ledger's database does not answer, or this replica answers as many queries as it may at once: try again",
    )
}

/// What a caller is told whose job may have been made.
fn not_known(error: &sqlx::Error) -> Status {
    warn!(%error, "the ledger's database does not say whether a job was made");
    Status::unavailable(
        "the ledger's database does not answer: ask again with the same job_id, and there is one job in the end",
    )
}

/// The SQLSTATE of a statement that took longer than `statement_timeout`.
const QUERY_CANCELED: &str = "57014";

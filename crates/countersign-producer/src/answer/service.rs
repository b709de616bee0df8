//! `RequestResend`: the callback service, or an operator, asks the upstream to send a message
//! again.

use std::fmt;
use std::sync::Arc;

use countersign_postgres::Database;
use countersign_protocol::envelope::clean_reason;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_server::Upstream;
use countersign_protocol::grpc::{RequestResendRequest, RequestResendResponse};
use countersign_protocol::{Attempt, DatabaseId, MessageId, Name};
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::answer::decision::{Answer, Policy};
use crate::answer::look_up::{self, Asked, Looked, Unanswered};
use crate::answer::question::Question;
use crate::answer::repeats::{Repeats, Republished};
use crate::answer::republish::Resent;
use crate::send::publisher::Publisher;
use crate::source::MessageSource;

/// The gRPC service `countersign.v1.Upstream`, to be added to a tonic server.
pub type UpstreamServer =
    countersign_protocol::grpc::upstream_server::UpstreamServer<UpstreamService>;

/// Answers `RequestResend`. [`upstream`] or [`upstream_without_store`] makes it.
#[derive(Clone)]
pub struct UpstreamService {
    inner: Arc<Inner>,
}

struct Inner {
    publisher: Publisher,
    look_up: LookUp,
    repeats: Repeats,
    under_way: Arc<Semaphore>,
}

/// Looks an id up and decides about it.
type LookUp = Box<
    dyn Fn(MessageId, Option<DatabaseId>) -> BoxFuture<'static, Result<Looked, Unanswered>>
        + Send
        + Sync,
>;

/// The service refuses more requests than this at once. Each takes a database connection at times;
/// the callback service asks again later.
const MAX_UNDER_WAY: usize = 256;
/// For this many messages the service recognises repeats of the same attempt.
const REMEMBERED: usize = 10_000;

/// The service for an upstream whose transactions are in Postgres.
///
/// `pool` leads to the primary of the database that holds the transactions.
#[must_use]
pub fn upstream(publisher: Publisher, pool: PgPool, source: impl MessageSource) -> UpstreamServer {
    let (policy, source) = (publisher.policy(), Arc::new(source));
    let upstream = publisher.name().clone();
    let store = Database::from(pool);
    let look_up = move |id, database| -> BoxFuture<'static, _> {
        let (store, source, upstream) = (store.clone(), Arc::clone(&source), upstream.clone());
        Box::pin(async move {
            let asked = Asked { id, upstream: &upstream, database };
            look_up::by_enlistment(&store, &*source, policy, asked).await
        })
    };
    UpstreamServer::new(UpstreamService::new(publisher, Box::new(look_up)))
}

/// The service for an upstream that keeps its data elsewhere.
///
/// This service has no fence: an id that the source does not find, older than
/// [`longest_transaction`](crate::ProducerSettings::longest_transaction), counts as never
/// committed. So the source has to read what is committed *now*, not a replica that lags behind.
#[must_use]
pub fn upstream_without_store(
    publisher: Publisher,
    source: impl MessageSource<()>,
) -> UpstreamServer {
    let (policy, source) = (publisher.policy(), Arc::new(source));
    let upstream = publisher.name().clone();
    let look_up = move |id, database| -> BoxFuture<'static, _> {
        let (source, upstream) = (Arc::clone(&source), upstream.clone());
        Box::pin(async move {
            let asked = Asked { id, upstream: &upstream, database };
            look_up::by_age(&*source, policy, asked).await
        })
    };
    UpstreamServer::new(UpstreamService::new(publisher, Box::new(look_up)))
}

#[tonic::async_trait]
impl Upstream for UpstreamService {
    async fn request_resend(
        &self,
        request: Request<RequestResendRequest>,
    ) -> Result<Response<RequestResendResponse>, Status> {
        if let Some(token) = &self.inner.publisher.inner.settings.token {
            token.require(request.metadata())?;
        }
        let question = Question::read(request.into_inner())?;
        let permit = Arc::clone(&self.inner.under_way).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{MAX_UNDER_WAY} requests are under way: ask again later"
            ))
        })?;
        let inner = Arc::clone(&self.inner);
        // The answer runs in a task, so that a caller that hangs up does not leave half of it done.
        let answering = tokio::spawn(async move {
            let _permit = permit;
            inner.answer(question).await
        });
        match answering.await {
            Ok(answer) => answer.map(Response::new),
            Err(_) => Err(Status::internal("answering panicked: see the upstream's log")),
        }
    }
}

impl UpstreamService {
    fn new(publisher: Publisher, look_up: LookUp) -> Self {
        let (repeats, under_way) = (Repeats::new(REMEMBERED), Semaphore::new(MAX_UNDER_WAY));
        let under_way = Arc::new(under_way);
        Self { inner: Arc::new(Inner { publisher, look_up, repeats, under_way }) }
    }
}

impl Publisher {
    fn name(&self) -> &Name {
        &self.inner.settings.upstream
    }

    fn policy(&self) -> Policy {
        let settings = &self.inner.settings;
        Policy { longest_transaction: settings.longest_transaction, retention: settings.retention }
    }
}

impl Inner {
    async fn answer(&self, question: Question) -> Result<RequestResendResponse, Status> {
        let Question { id, attempt, missing, reason, upstream, database } = question;
        let own = self.publisher.name();
        if let Some(meant) = upstream.filter(|meant| meant != own) {
            warn!(message_id = %id, %meant, "asked to send another upstream's message again: is this upstream's address given for that one?");
            let why = format!("upstream {meant} is meant; this is {own}");
            return Ok(self.saying(Outcome::Misdirected, &why));
        }
        let _turn = self.repeats.turn(id).await;
        if let Some(done) = attempt.and_then(|attempt| self.repeats.recall(id, attempt)) {
            info!(message_id = %id, attempt = %done.attempt, "a caller asks again for an attempt that was republished");
            return Ok(self.republished(done));
        }
        let looked = (self.look_up)(id, database).await;
        let Looked { answer, database } = match looked {
            Ok(looked) => looked,
            Err(why) => {
                warn!(message_id = %id, error = %why, "asked to send again: the message cannot be looked up now");
                return Ok(self.saying(Outcome::NotPublished, &why.to_string()));
            }
        };
        let response = match answer {
            Answer::Republish(message) => {
                let by_hand = attempt.is_none();
                let number = attempt.unwrap_or_else(|| self.repeats.next_attempt(id));
                match self.publisher.republish(message, number, missing).await {
                    Resent::Done(done) => {
                        self.repeats.remember(id, done, by_hand);
                        self.republished(done)
                    }
                    Resent::Not(why) => self.saying(Outcome::NotPublished, &why),
                    Resent::Unclear(why) => {
                        warn!(message_id = %id, attempt = %number, why, "asked to send again: whether the broker has it is unknown");
                        return Err(Status::deadline_exceeded(clean_reason(&format!(
                            "the broker did not say whether it has the message: {why}"
                        ))));
                    }
                }
            }
            Answer::NeverCommitted => self
                .saying(Outcome::NeverCommitted, "its transaction did not commit, and never will"),
            Answer::InProgress { retry_after } => RequestResendResponse {
                retry_after_ms: i64::try_from(retry_after.as_millis().max(1)).unwrap_or(i64::MAX),
                ..self.saying(Outcome::InProgress, "its transaction may still commit")
            },
            Answer::Withdrawn { reason } => self.saying(Outcome::Withdrawn, &reason),
            Answer::Unknown { reason } => self.saying(Outcome::Unknown, &reason),
            Answer::Misdirected { reason } => {
                warn!(message_id = %id, reason, "asked for a message of another database: does the upstream's server have the database that its transactions commit in?");
                self.saying(Outcome::Misdirected, &reason)
            }
        };
        info!(
            message_id = %id,
            attempt = attempt.map_or(response.attempt, Attempt::number),
            outcome = response.outcome().as_str_name(),
            answer = response.reason,
            reason,
            "asked to send again"
        );
        Ok(RequestResendResponse {
            database: database.map(|id| id.to_string()).unwrap_or_default(),
            ..response
        })
    }

    fn saying(&self, outcome: Outcome, reason: &str) -> RequestResendResponse {
        let settings = &self.publisher.inner.settings;
        RequestResendResponse {
            outcome: outcome.into(),
            reason: clean_reason(reason),
            upstream: settings.upstream.to_string(),
            database: settings.database.map(|id| id.to_string()).unwrap_or_default(),
            ..RequestResendResponse::default()
        }
    }

    fn republished(&self, done: Republished) -> RequestResendResponse {
        RequestResendResponse {
            published_at_ms: done.published_at.ms(),
            attempt: done.attempt.number(),
            ..self.saying(Outcome::Republished, "")
        }
    }
}

impl fmt::Debug for UpstreamService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamService").finish_non_exhaustive()
    }
}

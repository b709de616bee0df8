//! `RequestResend`: the callback service, or a person, asks for a message to be sent again.

use std::fmt;
use std::sync::Arc;

use countersign_amqp::PublishOutcome;
use countersign_protocol::check::{CheckedMessage, MAX_CONSUMERS};
use countersign_protocol::envelope::clean_reason;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_server::Upstream;
use countersign_protocol::grpc::{RequestResendRequest, RequestResendResponse};
use countersign_protocol::window::MAX_AHEAD;
use countersign_protocol::{Attempt, MessageId, Name};
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::answer::decision::{Answer, Policy};
use crate::answer::look_up::{self, Unanswered};
use crate::answer::repeats::{Repeats, Republished};
use crate::clock;
use crate::message::Message;
use crate::send::arm::Arming;
use crate::send::publisher::Publisher;
use crate::source::MessageSource;

/// The gRPC service `countersign.v1.Upstream`, to be added to a tonic server.
pub type UpstreamServer =
    countersign_protocol::grpc::upstream_server::UpstreamServer<UpstreamService>;

/// Answers `RequestResend`. Made by [`upstream`] or [`upstream_without_store`].
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

/// Finds out what to do about an id.
type LookUp =
    Box<dyn Fn(MessageId) -> BoxFuture<'static, Result<Answer, Unanswered>> + Send + Sync>;

/// More requests than this at once are refused.
const MAX_UNDER_WAY: usize = 256;
/// For so many messages repeats of the same attempt are recognised.
const REMEMBERED: usize = 10_000;
/// How much of what cannot be read is repeated in an error, in characters.
const SHOWN: usize = 64;

/// The service for an upstream whose transactions are in Postgres.
///
/// `pool` leads to the primary of the database that the transactions are in.
#[must_use]
pub fn upstream(publisher: Publisher, pool: PgPool, source: impl MessageSource) -> UpstreamServer {
    let look_up = by_enlistment(&publisher, pool, source);
    UpstreamServer::new(UpstreamService::new(publisher, look_up))
}

/// Looks an id up in `countersign.enlisted` and with the source.
fn by_enlistment(publisher: &Publisher, pool: PgPool, source: impl MessageSource) -> LookUp {
    let (policy, source) = (publisher.policy(), Arc::new(source));
    Box::new(move |id| -> BoxFuture<'static, _> {
        let (pool, source) = (pool.clone(), Arc::clone(&source));
        Box::pin(async move { look_up::by_enlistment(&pool, &*source, policy, id).await })
    })
}

/// The service for an upstream that keeps its data elsewhere.
///
/// There is no fence: what is not found, and whose id is older than
/// [`longest_transaction`](crate::ProducerSettings::longest_transaction), counts as never committed.
/// So the source has to read what is committed *now*, not a replica that lags behind.
#[must_use]
pub fn upstream_without_store(
    publisher: Publisher,
    source: impl MessageSource<()>,
) -> UpstreamServer {
    let (policy, source) = (publisher.policy(), Arc::new(source));
    let look_up = move |id| -> BoxFuture<'static, _> {
        let source = Arc::clone(&source);
        Box::pin(async move { look_up::by_age(&*source, policy, id).await })
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
        let asked = Asked::read(request.into_inner())?;
        let permit = Arc::clone(&self.inner.under_way).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{MAX_UNDER_WAY} requests are under way: ask again later"
            ))
        })?;
        let inner = Arc::clone(&self.inner);
        // In a task, so that a caller that hangs up does not leave half of it done.
        let answering = tokio::spawn(async move {
            let _permit = permit;
            inner.answer(asked).await
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
    fn policy(&self) -> Policy {
        let settings = &self.inner.settings;
        Policy { longest_transaction: settings.longest_transaction, retention: settings.retention }
    }
}

/// A request that can be answered.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    id: MessageId,
    /// `None`: by hand.
    attempt: Option<Attempt>,
    missing: Vec<Name>,
    reason: String,
}

impl Asked {
    fn read(request: RequestResendRequest) -> Result<Self, Status> {
        let RequestResendRequest { message_id, attempt, missing_consumers, reason } = request;
        let id: MessageId = message_id.parse().map_err(|why| {
            Status::invalid_argument(format!(
                "message_id {:?}: {why}; give the message's id, a UUIDv7 in text",
                shown(&message_id)
            ))
        })?;
        if id.time() > clock::now().after(MAX_AHEAD) {
            return Err(Status::invalid_argument(format!(
                "message_id {id}: made more than 24 hours in the future ({} ms since 1970)",
                id.time()
            )));
        }
        if missing_consumers.len() > MAX_CONSUMERS {
            return Err(Status::invalid_argument(format!(
                "missing_consumers: {} given, at most {MAX_CONSUMERS} can have to confirm",
                missing_consumers.len()
            )));
        }
        let missing = missing_consumers.iter().map(|name| name.parse()).collect::<Result<_, _>>();
        let missing =
            missing.map_err(|why| Status::invalid_argument(format!("missing_consumers: {why}")))?;
        let attempt = Attempt::from_number(attempt);
        Ok(Self { id, attempt, missing, reason: clean_reason(&reason) })
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

impl Inner {
    async fn answer(&self, asked: Asked) -> Result<RequestResendResponse, Status> {
        let Asked { id, attempt, missing, reason } = asked;
        let _turn = self.repeats.turn(id).await;
        if let Some(done) = attempt.and_then(|attempt| self.repeats.recall(id, attempt)) {
            info!(message_id = %id, attempt = %done.attempt, "asked again for an attempt that was republished");
            return Ok(republished(done));
        }
        let answer = (self.look_up)(id).await.map_err(|why| unanswered(id, &why))?;
        let response = match answer {
            Answer::Republish(message) => {
                let by_hand = attempt.is_none();
                let number = attempt.unwrap_or_else(|| self.repeats.next_attempt(id));
                match self.publisher.republish(message, number, missing).await {
                    Resent::Done(done) => {
                        self.repeats.remember(id, done, by_hand);
                        republished(done)
                    }
                    Resent::Not(why) => saying(Outcome::NotPublished, &why),
                    Resent::Unclear(why) => {
                        warn!(message_id = %id, attempt = %number, why, "asked to send again: whether the broker has it is unknown");
                        return Err(Status::deadline_exceeded(clean_reason(&format!(
                            "the broker did not say whether it has the message: {why}"
                        ))));
                    }
                }
            }
            Answer::NeverCommitted => {
                saying(Outcome::NeverCommitted, "its transaction did not commit, and never will")
            }
            Answer::InProgress { retry_after } => RequestResendResponse {
                retry_after_ms: i64::try_from(retry_after.as_millis().max(1)).unwrap_or(i64::MAX),
                ..saying(Outcome::InProgress, "its transaction may still commit")
            },
            Answer::Withdrawn { reason } => saying(Outcome::Withdrawn, &reason),
            Answer::Unknown { reason } => saying(Outcome::Unknown, &reason),
        };
        info!(
            message_id = %id,
            attempt = attempt.map_or(response.attempt, Attempt::number),
            outcome = response.outcome().as_str_name(),
            answer = response.reason,
            reason,
            "asked to send again"
        );
        Ok(response)
    }
}

fn saying(outcome: Outcome, reason: &str) -> RequestResendResponse {
    RequestResendResponse {
        outcome: outcome.into(),
        reason: clean_reason(reason),
        ..RequestResendResponse::default()
    }
}

fn republished(done: Republished) -> RequestResendResponse {
    RequestResendResponse {
        outcome: Outcome::Republished.into(),
        published_at_ms: done.published_at.ms(),
        attempt: done.attempt.number(),
        ..RequestResendResponse::default()
    }
}

fn unanswered(id: MessageId, why: &Unanswered) -> Status {
    warn!(message_id = %id, error = %why, "asked to send again: cannot be answered now");
    let text = clean_reason(&why.to_string());
    if why.is_passing() { Status::unavailable(text) } else { Status::internal(text) }
}

/// What became of a republish.
#[derive(Debug, PartialEq, Eq)]
enum Resent {
    /// The broker confirmed and routed it.
    Done(Republished),
    /// It surely was not sent.
    Not(String),
    /// Nobody knows.
    Unclear(String),
}

impl Publisher {
    /// The flow once more, for a message that is committed: its check first, and when the broker
    /// holds that, the message.
    async fn republish(
        &self,
        mut message: Message,
        attempt: Attempt,
        missing: Vec<Name>,
    ) -> Resent {
        if !missing.is_empty() {
            message = message.with_consumers(missing);
        }
        self.inner.complete(&mut message);
        if let Some(why) = message.problem() {
            return Resent::Not(why);
        }
        let Some(_share) = self.inner.budget.take([message.body.len()].into_iter()) else {
            return Resent::Not("overloaded: too much is unconfirmed by the broker".to_owned());
        };
        if let Err(why) = self.rearm([(message.id, message.consumers.clone())]).await {
            return Resent::Not(why);
        }
        self.send(&message, attempt).await
    }

    /// Fresh checks for messages that are committed. The error says why the broker does not hold
    /// them all.
    pub(crate) async fn rearm(
        &self,
        messages: impl IntoIterator<Item = (MessageId, Vec<Name>)>,
    ) -> Result<(), String> {
        let pending = messages.into_iter().map(|(id, consumers)| {
            self.inner.arm_check(CheckedMessage { id, consumers, arming: None })
        });
        let pending = pending.collect::<Result<Vec<_>, _>>();
        let pending = pending.map_err(|why| format!("the check was not sent: {why}"))?;
        let mut arming = Arming::UnderWay(pending);
        arming.wait(&self.inner).await.map_err(|why| format!("not armed: {why}"))
    }

    /// Publishes a message whose check the broker holds, and waits for the broker's word.
    async fn send(&self, message: &Message, attempt: Attempt) -> Resent {
        let published_at = clock::now();
        match self.inner.publish(message, attempt, published_at) {
            Ok(pending) => judge(pending.await, Republished { attempt, published_at }),
            Err(why) => Resent::Not(why.to_string()),
        }
    }
}

fn judge(verdict: PublishOutcome, done: Republished) -> Resent {
    match verdict {
        PublishOutcome::Routed => Resent::Done(done),
        PublishOutcome::Unroutable { why } => Resent::Not(format!("unroutable: {why}")),
        PublishOutcome::Refused => Resent::Not("a queue refused it: is it full?".to_owned()),
        PublishOutcome::Unknown { why } => Resent::Unclear(why),
    }
}

impl fmt::Debug for UpstreamService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamService").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use countersign_protocol::UnixMillis;
    use tonic::Code;

    use super::*;

    fn asking(message_id: &str) -> RequestResendRequest {
        RequestResendRequest { message_id: message_id.to_owned(), ..Default::default() }
    }

    #[test]
    fn nonsense_is_refused_with_what_is_wrong_with_it() {
        let ahead = MessageId::from_parts(clock::now().after(MAX_AHEAD * 2), [0; 10]).to_string();
        let good = MessageId::generate().to_string();
        let with = |missing: Vec<String>| RequestResendRequest {
            missing_consumers: missing,
            ..asking(&good)
        };
        for (request, part) in [
            (asking(""), "not a UUID"),
            (asking("nonsense"), "\"nonsense\": not a UUID"),
            (asking("6f9619ff-8b86-4011-b42d-00c04fc964ff"), "not of version 7"),
            (asking(&ahead), "in the future"),
            (asking(&"x".repeat(100_000)), "not a UUID"),
            (with(vec!["Logistics!".into()]), "\"Logistics!\" is not a name"),
            (with(vec!["logistics".into(); 17]), "17 given"),
        ] {
            let status = Asked::read(request).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(part), "{}", status.message());
            assert!(status.message().len() < 500, "{}", status.message().len());
        }
    }

    #[test]
    fn attempt_0_means_by_hand() {
        let id = MessageId::generate();
        assert_eq!(Asked::read(asking(&id.to_string())).unwrap().attempt, None);
        let second = RequestResendRequest { attempt: 2, ..asking(&id.to_string()) };
        assert_eq!(Asked::read(second).unwrap().attempt, Attempt::from_number(2));
    }

    #[test]
    fn only_what_the_broker_routed_counts_as_republished() {
        let done = Republished { attempt: Attempt::FIRST, published_at: UnixMillis::EPOCH };
        assert_eq!(judge(PublishOutcome::Routed, done), Resent::Done(done));
        let unroutable = judge(PublishOutcome::Unroutable { why: "NO_ROUTE".into() }, done);
        assert_eq!(unroutable, Resent::Not("unroutable: NO_ROUTE".into()));
        assert!(matches!(judge(PublishOutcome::Refused, done), Resent::Not(_)));
        assert!(matches!(
            judge(PublishOutcome::Unknown { why: "reset".into() }, done),
            Resent::Unclear(_)
        ));
    }
}

//! The upstreams: whether they may be called just now, and the call itself.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_protocol::envelope::clean_reason;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_protocol::grpc::{RequestResendRequest, RequestResendResponse};
use countersign_protocol::{Attempt, DatabaseId, MessageId, Name, Token, UnixMillis};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status};

use crate::heal::address::UpstreamAddress;
use crate::log;
use crate::rules::breaker::{Change, Turn};
use crate::rules::gate::{Gate, Pause};
use crate::rules::upstream_answer::Answer;

/// How long connecting may take. Shorter than a call's deadline, so that a call without a connection
/// surely has asked nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Together the two say how late this replica notices a connection whose other end is gone: after
/// 15 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Every upstream that has an address, each with a channel that connects when it is first used. A
/// clone shares channels and gates.
#[derive(Clone, Debug)]
pub(crate) struct Upstreams {
    by_name: Arc<BTreeMap<Name, Arc<Upstream>>>,
    deadline: Duration,
    token: Option<Token>,
}

#[derive(Debug)]
struct Upstream {
    name: Name,
    address: String,
    endpoint: Endpoint,
    /// Its connection is made anew when the circuit opens: behind a load balancer, a connection stays with one
    /// replica of the upstream, which may hang while the others are well.
    client: Mutex<UpstreamClient<Channel>>,
    gate: Mutex<Gate>,
    /// Why the last answer was not that of this upstream, if it was not.
    misdirected: Mutex<Option<String>>,
}

/// What an upstream is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    /// The message.
    pub(crate) message_id: MessageId,
    /// The database in which its transaction commits, if that is known.
    pub(crate) database: Option<DatabaseId>,
    /// Which publish of the message the resend will be.
    pub(crate) attempt: Attempt,
    /// The consumers that have not confirmed it.
    pub(crate) missing: &'a [Name],
    /// Why, for an operator.
    pub(crate) reason: &'a str,
}

/// Whether an upstream that has an address answers, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reachability {
    /// Where the upstream is called.
    pub(crate) address: String,
    /// The state of its circuit breaker: `closed`, `open` or `half_open`.
    pub(crate) breaker: String,
    /// While the circuit is open: how long until a call tries.
    pub(crate) tried_in: Option<Duration>,
    /// Why the address is wrong, if it is: another upstream answers there.
    pub(crate) misdirected: Option<String>,
}

/// The right to one call.
#[derive(Debug)]
#[must_use = "dropped, it is given back"]
pub(crate) struct Permit {
    upstream: Arc<Upstream>,
    turn: Turn,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.upstream.gate().leave(self.turn);
    }
}

impl Upstreams {
    /// Makes no connection yet. A call takes no longer than `deadline`, and shows the token.
    ///
    /// To be called inside a runtime.
    #[must_use]
    pub(crate) fn new(
        addresses: &[UpstreamAddress],
        deadline: Duration,
        token: Option<Token>,
    ) -> Self {
        let upstream = |address: &UpstreamAddress| {
            let endpoint = address
                .endpoint
                .clone()
                .connect_timeout(CONNECT_TIMEOUT.min(deadline / 2))
                .timeout(deadline)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
            let upstream = Upstream {
                name: address.name.clone(),
                address: address.shown(),
                client: Mutex::new(UpstreamClient::new(endpoint.connect_lazy())),
                endpoint,
                gate: Mutex::new(Gate::new()),
                misdirected: Mutex::default(),
            };
            (address.name.clone(), Arc::new(upstream))
        };
        Self { by_name: Arc::new(addresses.iter().map(upstream).collect()), deadline, token }
    }

    /// The upstreams that have an address.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.by_name.keys()
    }

    /// Whether this upstream answers, for an operator. `None` if it has no address.
    #[must_use]
    pub(crate) fn reachability(&self, upstream: &Name) -> Option<Reachability> {
        let upstream = self.by_name.get(upstream)?;
        let gate = upstream.gate();
        let circuit = gate.circuit();
        Some(Reachability {
            address: upstream.address.clone(),
            breaker: circuit.to_string(),
            misdirected: upstream.misdirected().clone(),
            tried_in: circuit.until().map(|at| at.saturating_duration_since(Instant::now())),
        })
    }

    /// Whether this upstream has an address.
    #[must_use]
    pub(crate) fn know(&self, upstream: &Name) -> bool {
        self.by_name.contains_key(upstream)
    }

    /// The upstreams that are paused: their rows are not worth looking at.
    #[must_use]
    pub(crate) fn paused(&self, now: Instant) -> Vec<Name> {
        let paused = |upstream: &&Arc<Upstream>| upstream.gate().paused(now).is_some();
        self.by_name.values().filter(paused).map(|upstream| upstream.name.clone()).collect()
    }

    /// Whether this upstream is [paused](Self::paused).
    #[must_use]
    pub(crate) fn is_paused(&self, upstream: &Name, now: Instant) -> bool {
        self.by_name.get(upstream).is_some_and(|upstream| upstream.gate().paused(now).is_some())
    }

    /// Why rows of this upstream have had to wait lately, if a pause is why.
    #[must_use]
    pub(crate) fn paused_lately(&self, upstream: &Name, now: Instant) -> Option<Pause> {
        self.by_name.get(upstream)?.gate().paused_lately(now)
    }

    /// When the first pause ends whose end is known.
    #[must_use]
    pub(crate) fn next_reopens(&self, now: Instant) -> Option<Instant> {
        self.by_name.values().filter_map(|upstream| upstream.gate().reopens(now)).min()
    }

    /// Pauses this upstream until then: it has been asked for as many resends as it may be.
    pub(crate) fn limit(&self, upstream: &Name, until: Instant) {
        if let Some(upstream) = self.by_name.get(upstream) {
            upstream.gate().limit(until);
        }
    }

    /// Ends the pause of this upstream's rate limit: some resends were not needed.
    pub(crate) fn lift_limit(&self, upstream: &Name) {
        if let Some(upstream) = self.by_name.get(upstream) {
            upstream.gate().lift_limit();
        }
    }

    /// The right to one call, unless the upstream has no address, does not answer, or has as many
    /// calls as it may.
    #[must_use]
    pub(crate) fn permit(&self, upstream: &Name, now: Instant) -> Option<Permit> {
        let upstream = self.by_name.get(upstream)?;
        let (turn, change) = upstream.gate().enter(now)?;
        if let Some(change) = change {
            log::breaker(&upstream.name, change, "");
        }
        Some(Permit { upstream: Arc::clone(upstream), turn })
    }

    /// Asks an upstream to send a message again.
    pub(crate) async fn ask(&self, permit: &Permit, asked: &Question<'_>) -> Answer {
        let Question { message_id, database, attempt, missing, reason } = *asked;
        let upstream = &permit.upstream.name;
        let mut request = Request::new(RequestResendRequest {
            message_id: message_id.to_string(),
            attempt: attempt.number(),
            missing_consumers: missing.iter().map(Name::to_string).collect(),
            reason: clean_reason(reason),
            upstream: upstream.to_string(),
            database: named(database),
        });
        // The channel's own timeout ends the call on this side only; this one is sent to the upstream.
        request.set_timeout(self.deadline);
        if let Some(token) = &self.token {
            token.show(request.metadata_mut());
        }
        let mut client = permit.upstream.client().clone();
        let call = client.request_resend(request);
        let answer = match tokio::time::timeout(self.deadline, call).await {
            Ok(Ok(response)) => read(&response.into_inner(), upstream, database),
            Ok(Err(status)) => failed(&status),
            Err(_) => Answer::Unanswered { why: format!("nothing within {:?}", self.deadline) },
        };
        permit.ended(&answer);
        answer
    }
}

impl Upstream {
    /// Held for a look or a change, never across an await.
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self) -> MutexGuard<'_, UpstreamClient<Channel>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn misdirected(&self) -> MutexGuard<'_, Option<String>> {
        self.misdirected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Tells the circuit breaker whether the upstream answered the call.
    fn ended(&self, answer: &Answer) {
        match answer {
            Answer::Misdirected { why, .. } => {
                self.upstream.misdirected().replace(why.clone());
            }
            // Whether the address is right is not known.
            Answer::NotAsked { .. } | Answer::Unanswered { .. } => {}
            _ => *self.upstream.misdirected() = None,
        }
        let mut gate = self.upstream.gate();
        let (change, why) = match answer {
            // At this address nothing of the upstream is answered for. An upstream with another database may
            // answer for the next message.
            Answer::Misdirected { why, is_other_upstream: true }
            | Answer::NotAsked { why }
            | Answer::Unanswered { why } => {
                (gate.silent(self.turn, Instant::now(), fastrand::f64()), why.as_str())
            }
            _ => (gate.answered(self.turn), ""),
        };
        drop(gate);
        if let Some(change) = change {
            if let Change::Opened(_) = change {
                *self.upstream.client() =
                    UpstreamClient::new(self.upstream.endpoint.connect_lazy());
            }
            log::breaker(&self.upstream.name, change, why);
        }
    }
}

/// Reads the answer from a response. The outcome is in its body only, never in a status.
///
/// A last word counts only from the upstream and the database that are meant: another one says "never
/// committed" of whatever it does not know.
fn read(response: &RequestResendResponse, upstream: &Name, database: Option<DatabaseId>) -> Answer {
    let answer = outcome(response);
    let is_other_upstream = !response.upstream.is_empty() && response.upstream != upstream.as_str();
    if let Answer::Misdirected { why, .. } = answer {
        return Answer::Misdirected { why, is_other_upstream };
    }
    let is_meant = response.upstream == upstream.as_str()
        && response.database.parse::<DatabaseId>().ok() == database;
    if answer.is_last_word() && !is_meant {
        let why = format!(
            "upstream {upstream} is meant, with database {}; the answer is that of upstream {}, with database {}",
            or_none(&named(database)),
            or_none(&response.upstream),
            or_none(&response.database)
        );
        return Answer::Misdirected { why: clean_reason(&why), is_other_upstream };
    }
    answer
}

fn outcome(response: &RequestResendResponse) -> Answer {
    let reason = clean_reason(&response.reason);
    match response.outcome() {
        Outcome::Republished => Answer::Republished {
            at: Some(UnixMillis::from_ms(response.published_at_ms))
                .filter(|at| UnixMillis::EPOCH < *at && *at <= UnixMillis::MAX_IN_ID),
        },
        Outcome::NeverCommitted => Answer::NeverCommitted,
        Outcome::InProgress => Answer::InProgress {
            retry_after: Duration::from_millis(u64::try_from(response.retry_after_ms).unwrap_or(0)),
        },
        Outcome::Withdrawn => Answer::Withdrawn { reason },
        Outcome::NotPublished => Answer::NotPublished { reason },
        Outcome::Unknown => Answer::Unknown { reason },
        Outcome::Misdirected => Answer::Misdirected { why: reason, is_other_upstream: false },
        Outcome::Unspecified => Answer::Unanswered {
            why: format!("an outcome that is not known here ({})", response.outcome),
        },
    }
}

fn named(database: Option<DatabaseId>) -> String {
    database.map(|id| id.to_string()).unwrap_or_default()
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "(none)" } else { text }
}

/// Reads the answer from a failed call. A status is no outcome: it only says whether the upstream can
/// have done something.
fn failed(status: &Status) -> Answer {
    let text = clean_reason(status.message());
    let refused_before_it_did_anything = matches!(
        status.code(),
        Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            // The upstream has enough to do, and has not begun with this.
            | Code::ResourceExhausted
    );
    if let Some(cause) = not_connected(status) {
        Answer::NotAsked { why: clean_reason(&cause) }
    } else if refused_before_it_did_anything {
        Answer::NotAsked { why: format!("it refuses the call: {:?}, {text}", status.code()) }
    } else {
        Answer::Unanswered { why: format!("{:?}, {text}", status.code()) }
    }
}

/// Why there was no connection to make the call on, if there was none.
fn not_connected(status: &Status) -> Option<String> {
    let mut causes = std::iter::successors(status.source(), |&error| error.source());
    let connect = causes.find_map(|error| error.downcast_ref::<ConnectError>())?;
    let mut why = connect.to_string();
    for cause in std::iter::successors(connect.source(), |&error| error.source()) {
        let cause = cause.to_string();
        if !why.contains(&cause) {
            why = format!("{why}: {cause}");
        }
    }
    Some(why)
}

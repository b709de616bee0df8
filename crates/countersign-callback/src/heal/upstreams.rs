//! The upstreams: where they are, and how they are asked.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_protocol::envelope::clean_reason;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_protocol::grpc::{RequestResendRequest, RequestResendResponse};
use countersign_protocol::{Attempt, MessageId, Name, Token, UnixMillis};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, ConnectError, Request, Status};

use crate::log;
use crate::rules::breaker::{Breaker, Turn};
use crate::rules::upstream_answer::Answer;

/// Where an upstream is asked: `orders=http://orders:50051`.
#[derive(Clone)]
pub struct UpstreamAddress {
    /// Its name, as its checks say it.
    pub name: Name,
    endpoint: Endpoint,
}

/// Why a text is not an [`UpstreamAddress`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is not an upstream: {why}; write NAME=http://HOST:PORT or NAME=https://HOST:PORT"
)]
pub struct InvalidUpstream {
    text: String,
    why: String,
}

/// How many calls one upstream has at once from one replica. More would not heal faster, and a
/// resend costs an upstream more than it costs us.
pub(crate) const CALLS_AT_ONCE: usize = 64;

/// A connection that takes longer than this to make is not made. Shorter than any call's deadline,
/// so that it is known that nothing was asked.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A half-open connection is noticed after both of these.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is asked for as many as it may be has its pauses, and is held back in between as well.
const JUST_NOW: Duration = Duration::from_secs(2);

/// Every upstream that has an address, each with a channel that connects when it is first used.
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
    client: UpstreamClient<Channel>,
    calls: Arc<Semaphore>,
    asking: Mutex<Asking>,
}

/// What a person is told about an upstream that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Where it is asked.
    pub(crate) address: String,
    /// `closed`, `open` or `half_open`.
    pub(crate) breaker: String,
    /// While it is left alone: how long until it is tried again.
    pub(crate) tried_in: Option<Duration>,
}

/// Whether it is asked just now.
#[derive(Debug)]
struct Asking {
    breaker: Breaker,
    /// It has had as many resends as it may, until then.
    enough_until: Option<Instant>,
}

/// The right to one call.
#[derive(Debug)]
#[must_use = "dropped, it is given back"]
pub(crate) struct Permit {
    upstream: Arc<Upstream>,
    turn: Turn,
    _call: OwnedSemaphorePermit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.upstream.asking().breaker.given_back(self.turn);
    }
}

impl Upstreams {
    /// Connects to nobody yet. A call takes no longer than `deadline`, and shows the token.
    ///
    /// To be called inside a runtime.
    #[must_use]
    pub(crate) fn new(
        addresses: &[UpstreamAddress],
        deadline: Duration,
        token: Option<Token>,
    ) -> Self {
        let upstream = |address: &UpstreamAddress| {
            let channel = address
                .endpoint
                .clone()
                .connect_timeout(CONNECT_TIMEOUT.min(deadline / 2))
                .timeout(deadline)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .connect_lazy();
            let client = UpstreamClient::new(channel);
            let upstream = Upstream {
                name: address.name.clone(),
                address: address.shown(),
                client,
                calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
                asking: Mutex::new(Asking { breaker: Breaker::new(), enough_until: None }),
            };
            (address.name.clone(), Arc::new(upstream))
        };
        Self { by_name: Arc::new(addresses.iter().map(upstream).collect()), deadline, token }
    }

    /// Those that have an address.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.by_name.keys()
    }

    /// What a person is told about this one. `None` if it has no address.
    #[must_use]
    pub(crate) fn told(&self, upstream: &Name) -> Option<Told> {
        let upstream = self.by_name.get(upstream)?;
        let breaker = &upstream.asking().breaker;
        Some(Told {
            address: upstream.address.clone(),
            breaker: breaker.to_string(),
            tried_in: breaker.until().map(|at| at.saturating_duration_since(Instant::now())),
        })
    }

    /// Whether there is an address for this one.
    #[must_use]
    pub(crate) fn know(&self, upstream: &Name) -> bool {
        self.by_name.contains_key(upstream)
    }

    /// Those that are left alone just now: they have enough to answer, or do not answer, or have had
    /// as many resends as they may. Rows are not worth looking at for a call or two.
    #[must_use]
    pub(crate) fn left_alone(&self, now: Instant) -> Vec<Name> {
        let left_alone = |upstream: &&Arc<Upstream>| upstream.is_left_alone(now);
        self.by_name.values().filter(left_alone).map(|upstream| upstream.name.clone()).collect()
    }

    /// Whether this one is [left alone](Self::left_alone).
    #[must_use]
    pub(crate) fn is_left_alone(&self, upstream: &Name, now: Instant) -> bool {
        self.by_name.get(upstream).is_some_and(|upstream| upstream.is_left_alone(now))
    }

    /// Why not all are asked for that this one could be asked for, if that is so just now. For a
    /// person.
    #[must_use]
    pub(crate) fn why_held_back(&self, upstream: &Name, now: Instant) -> Option<String> {
        let upstream = self.by_name.get(upstream)?;
        let name = &upstream.name;
        let asking = upstream.asking();
        let had_enough = |until: Instant| until + JUST_NOW > now;
        if !asking.breaker.is_closed() {
            Some(format!("{name} does not answer"))
        } else if asking.enough_until.is_some_and(had_enough) {
            Some(format!("{name} is asked for only so many at a time, and others were first"))
        } else {
            None
        }
    }

    /// When the first of them can be asked again for which a time is known.
    #[must_use]
    pub(crate) fn next_to_be_asked(&self, now: Instant) -> Option<Instant> {
        let times = |upstream: &Arc<Upstream>| {
            let asking = upstream.asking();
            [asking.breaker.until(), asking.enough_until]
        };
        self.by_name.values().flat_map(times).flatten().filter(|time| *time > now).min()
    }

    /// It has had enough resends until then.
    pub(crate) fn enough(&self, upstream: &Name, until: Instant) {
        if let Some(upstream) = self.by_name.get(upstream) {
            upstream.asking().enough_until = Some(until);
        }
    }

    /// It may have some more after all.
    pub(crate) fn not_enough(&self, upstream: &Name) {
        if let Some(upstream) = self.by_name.get(upstream) {
            upstream.asking().enough_until = None;
        }
    }

    /// The right to one call, unless it is unknown, does not answer, or has as many as it may.
    #[must_use]
    pub(crate) fn permit(&self, upstream: &Name, now: Instant) -> Option<Permit> {
        let upstream = self.by_name.get(upstream)?;
        let call = Arc::clone(&upstream.calls).try_acquire_owned().ok()?;
        let (turn, change) = upstream.asking().breaker.turn(now)?;
        if let Some(change) = change {
            log::breaker(&upstream.name, change, "");
        }
        Some(Permit { upstream: Arc::clone(upstream), turn, _call: call })
    }

    /// Asks an upstream to send a message again.
    pub(crate) async fn ask(
        &self,
        permit: &Permit,
        message_id: MessageId,
        attempt: Attempt,
        missing: &[Name],
        reason: &str,
    ) -> Answer {
        let mut request = Request::new(RequestResendRequest {
            message_id: message_id.to_string(),
            attempt: attempt.number(),
            missing_consumers: missing.iter().map(Name::to_string).collect(),
            reason: clean_reason(reason),
        });
        // The channel's own timeout ends the call here; this one is told to the upstream.
        request.set_timeout(self.deadline);
        if let Some(token) = &self.token {
            token.show(request.metadata_mut());
        }
        let mut client = permit.upstream.client.clone();
        let call = client.request_resend(request);
        let answer = match tokio::time::timeout(self.deadline, call).await {
            Ok(Ok(response)) => read(&response.into_inner()),
            Ok(Err(status)) => failed(&status),
            Err(_) => Answer::Unanswered { why: format!("nothing within {:?}", self.deadline) },
        };
        permit.heard(&answer);
        answer
    }
}

impl Upstream {
    fn is_left_alone(&self, now: Instant) -> bool {
        let asking = self.asking();
        self.calls.available_permits() < CALLS_AT_ONCE / 2
            || !asking.breaker.lets(now)
            || asking.enough_until.is_some_and(|until| until > now)
    }

    /// Held for a look or a change, never across an await.
    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// What came of the call.
    fn heard(&self, answer: &Answer) {
        let mut asking = self.upstream.asking();
        let (change, why) = match answer {
            Answer::NotAsked { why } | Answer::Unanswered { why } => {
                (asking.breaker.silent(self.turn, Instant::now(), fastrand::f64()), why.as_str())
            }
            _ => (asking.breaker.answered(self.turn), ""),
        };
        drop(asking);
        if let Some(change) = change {
            log::breaker(&self.upstream.name, change, why);
        }
    }
}

/// What a response says. A verdict is in its body only.
fn read(response: &RequestResendResponse) -> Answer {
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
        Outcome::Unspecified => Answer::Unanswered {
            why: format!("an outcome that is not known here ({})", response.outcome),
        },
    }
}

/// A status is no verdict: it only says whether the upstream can have done something.
fn failed(status: &Status) -> Answer {
    let text = clean_reason(status.message());
    let refused_before_it_did_anything = matches!(
        status.code(),
        Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
    );
    if let Some(cause) = not_connected(status) {
        Answer::NotAsked { why: clean_reason(&cause) }
    } else if refused_before_it_did_anything {
        Answer::NotAsked { why: format!("it refuses the call: {:?}, {text}", status.code()) }
    } else {
        Answer::Unanswered { why: format!("{:?}, {text}", status.code()) }
    }
}

/// Why there was no connection to ask on, if that is what happened.
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

impl UpstreamAddress {
    /// Without what may be secret in it.
    fn shown(&self) -> String {
        let uri = self.endpoint.uri();
        let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}", uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or(""))
    }
}

impl FromStr for UpstreamAddress {
    type Err = InvalidUpstream;

    fn from_str(text: &str) -> Result<Self, InvalidUpstream> {
        let invalid = |why: String| InvalidUpstream { text: text.to_owned(), why };
        let (name, address) =
            text.split_once('=').ok_or_else(|| invalid("it has no '='".to_owned()))?;
        let name = name.trim().parse().map_err(|e| invalid(format!("{e}")))?;
        let endpoint =
            Endpoint::from_shared(address.trim().to_owned()).map_err(|e| invalid(e.to_string()))?;
        let endpoint = match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
            (Some("http"), Some(_)) => endpoint,
            (Some("https"), Some(_)) => endpoint
                .tls_config(ClientTlsConfig::new().with_native_roots())
                .map_err(|e| invalid(e.to_string()))?,
            _ => return Err(invalid("its address is neither http:// nor https://".to_owned())),
        };
        Ok(Self { name, endpoint })
    }
}

impl fmt::Debug for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.shown())
    }
}

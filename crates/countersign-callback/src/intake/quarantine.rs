//! Where what cannot be read or stored is kept for a person.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use countersign_amqp::{Outgoing, Pending, Properties, PublishOutcome, Publisher};
use countersign_protocol::envelope::{MAX_BODY_BYTES, clean_reason};
use countersign_protocol::{Headers, header, topology};
use countersign_retry::{Retry, Stopped};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Publishes to the quarantine. A clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Quarantine {
    publisher: Publisher,
    log: Arc<Mutex<Log>>,
}

/// Something to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantined {
    /// An envelope: as it came, or with the one entry that is not taken.
    pub(crate) body: Bytes,
    /// What is wrong with it, for a person.
    pub(crate) reason: String,
    /// The queue it came through.
    pub(crate) source: String,
    /// Its sender's word for itself, if it came with one.
    pub(crate) app_id: Option<String>,
}

/// How many are on their way at once.
const AT_ONCE: usize = 100;

/// Whoever sends garbage sends a lot of it.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Log {
    last_line: Option<Instant>,
    untold: u64,
    total: u64,
}

impl Quarantine {
    /// A quarantine behind this publisher.
    #[must_use]
    pub(crate) fn new(publisher: Publisher) -> Self {
        Self { publisher, log: Arc::default() }
    }

    /// Returns when the broker has all of them.
    ///
    /// # Errors
    /// When the process has to stop and the broker does not have them all: what they came from must
    /// not be acked.
    pub(crate) async fn keep(
        &self,
        things: &[Quarantined],
        shutdown: &CancellationToken,
    ) -> Result<(), Stopped> {
        for things in things.chunks(AT_ONCE) {
            let mut retry = Retry::new("put aside in quarantine what cannot be read");
            let mut left: Vec<&Quarantined> = things.iter().collect();
            loop {
                let problem;
                (left, problem) = self.publish(left).await;
                let Some(problem) = problem else { break };
                retry.wait(&problem, shutdown).await?;
            }
            retry.worked();
        }
        self.tell(things);
        Ok(())
    }

    /// Publishes all of them; what the broker does not have then is returned with the reason.
    async fn publish<'a>(
        &self,
        things: Vec<&'a Quarantined>,
    ) -> (Vec<&'a Quarantined>, Option<String>) {
        let sent: Vec<_> = things
            .into_iter()
            .map(|thing| (thing, self.publisher.publish(thing.message())))
            .collect();
        let mut left = Vec::new();
        let mut problem = None;
        for (thing, pending) in sent {
            let failed = match pending {
                Ok(pending) => failure(pending).await,
                Err(not_taken) => Some(not_taken.to_string()),
            };
            if failed.is_some() {
                left.push(thing);
                problem = failed;
            }
        }
        (left, problem)
    }

    fn tell(&self, things: &[Quarantined]) {
        let Some(last) = things.last() else { return };
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let count = u64::try_from(things.len()).unwrap_or(u64::MAX);
        log.untold = log.untold.saturating_add(count);
        log.total = log.total.saturating_add(count);
        if log.last_line.is_none_or(|at| at.elapsed() >= BETWEEN_LINES) {
            warn!(
                count = log.untold,
                total = log.total,
                last_reason = last.reason,
                last_source = last.source,
                last_app_id = last.app_id,
                "put aside in {}",
                topology::QUARANTINE
            );
            log.untold = 0;
            log.last_line = Some(Instant::now());
        }
    }
}

async fn failure(pending: Pending) -> Option<String> {
    match pending.await {
        PublishOutcome::Routed => None,
        PublishOutcome::Unroutable { why } => Some(format!("unroutable: {why}")),
        PublishOutcome::Refused => Some("refused by the broker".to_owned()),
        PublishOutcome::Unknown { why } => Some(why),
    }
}

impl Quarantined {
    fn message(&self) -> Outgoing {
        let mut reason = self.reason.clone();
        let mut body = self.body.clone();
        if body.len() > MAX_BODY_BYTES {
            reason = format!("{reason} (cut off here after {MAX_BODY_BYTES} bytes)");
            body.truncate(MAX_BODY_BYTES);
        }
        Outgoing {
            exchange: topology::QUARANTINE.to_owned(),
            key: String::new(),
            properties: Properties {
                app_id: self.app_id.clone(),
                headers: Headers::new()
                    .with_text(header::REASON, &clean_reason(&reason))
                    .with_text(header::SOURCE, &self.source),
                ..Properties::default()
            },
            body,
        }
    }
}

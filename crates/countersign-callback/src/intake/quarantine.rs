//! The quarantine: a queue that keeps messages and entries for an operator which this service cannot read
//! or record.

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

/// A message or entry for the quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantined {
    /// An envelope: as it came, or with the one entry that is not taken.
    pub(crate) body: Bytes,
    /// Why it cannot be read or recorded, for an operator.
    pub(crate) reason: String,
    /// The queue that the message came through.
    pub(crate) source: String,
    /// The AMQP property `app_id` of the message: how its sender names itself, if it does.
    pub(crate) app_id: Option<String>,
}

/// How many messages wait for the broker's confirm at once. Full ones are 150 kB each: 15 MB at most.
const AT_ONCE: usize = 100;

/// How often a warning tells of the quarantine at most: a sender of garbage sends a lot of it, and the
/// log would be full of lines that say the same.
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

    /// Publishes these to the quarantine, and returns when the broker has all of them.
    ///
    /// # Errors
    /// When the process has to stop and the broker does not have them all: the deliveries that they came
    /// in must not be acked.
    pub(crate) async fn keep(
        &self,
        things: &[Quarantined],
        shutdown: &CancellationToken,
    ) -> Result<(), Stopped> {
        for things in things.chunks(AT_ONCE) {
            let mut retry = Retry::new("put messages that cannot be read into quarantine");
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

    /// Publishes all of these. Returns those that the broker does not have, with the reason.
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
                "put messages that cannot be read or recorded into {}",
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

//! Calls that ask upstreams to send messages again, made under committed leases.

use std::sync::Arc;
use std::time::Duration;

use countersign_protocol::{Attempt, DatabaseId, Name};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::heal::answers::Answered;
use crate::heal::upstreams::{Permit, Question, Upstreams};
use crate::rules::overdue::{Key, list};
use crate::rules::states::Lease;
use crate::rules::upstream_answer::Answer;

/// How long asking takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a call may take. Less than a process may take to stop.
    pub call: Duration,
    /// How long no other replica asks for the same message. Longer than a call, with room for the
    /// answer to be written; when a replica dies, its messages are held up for this long.
    pub lease: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { call: Duration::from_secs(5), lease: Duration::from_secs(20) }
    }
}

/// A message to be asked for, whose lease is committed.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The row.
    pub(crate) key: Key,
    /// The database in which the message's transaction commits, if that is known.
    pub(crate) database: Option<DatabaseId>,
    /// The lease under which the upstream is asked.
    pub(crate) lease: Lease,
    /// When the lease began, at the latest.
    pub(crate) taken: Instant,
    /// Which publish of the message the resend will be.
    pub(crate) attempt: Attempt,
    /// The consumers that have not confirmed it.
    pub(crate) missing: Vec<Name>,
    /// Why the upstream is asked, for an operator.
    pub(crate) reason: String,
    /// The right to the call.
    pub(crate) permit: Permit,
}

/// Makes calls, each in a task of its own. A clone makes them together with the original.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    upstreams: Upstreams,
    timing: Timing,
    answers: mpsc::Sender<Answered>,
    wake: Arc<Notify>,
    under_way: TaskTracker,
}

impl Calls {
    /// Calls to these upstreams. Their answers go to `answers`; `wake` starts a round when an upstream is
    /// free for more.
    #[must_use]
    pub(crate) fn new(
        upstreams: Upstreams,
        timing: Timing,
        answers: mpsc::Sender<Answered>,
        wake: Arc<Notify>,
    ) -> Self {
        Self { upstreams, timing, answers, wake, under_way: TaskTracker::new() }
    }

    /// Begins a call.
    pub(crate) fn make(&self, asked: Asked) {
        self.under_way.spawn(self.clone().call(asked));
    }

    /// Waits until all calls are over and their answers handed on.
    pub(crate) async fn finish(self) {
        self.under_way.close();
        self.under_way.wait().await;
    }

    async fn call(self, asked: Asked) {
        let Asked { key, database, lease, taken, attempt, missing, reason, permit } = asked;
        let message_id = key.message_id;
        let answer = if taken.elapsed() + self.timing.call > self.timing.lease {
            // This process was frozen for a while: another replica asks when the lease is over.
            Answer::NotAsked { why: "the lease was nearly over".to_owned() }
        } else {
            let (missing, reason) = (missing.as_slice(), reason.as_str());
            let question = Question { message_id, database, attempt, missing, reason };
            self.upstreams.ask(&permit, &question).await
        };
        fail::fail_point!("callback.asked", |_| std::process::abort());
        info!(%message_id, upstream = %key.upstream, %attempt, consumer = list(&missing), ?answer, "asked the upstream for a resend");
        drop(permit);
        if !self.upstreams.is_paused(&key.upstream, Instant::now()) {
            self.wake.notify_one();
        }
        // The writer of answers lives longer than any call.
        let _ = self.answers.send(Answered { key, database, lease, answer }).await;
    }
}

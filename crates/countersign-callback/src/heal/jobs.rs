//! Jobs at work: taken in turns by any replica, a batch in each transaction, with everything that
//! has to be remembered in the database. A process may die at any moment.

use std::sync::Arc;
use std::time::Duration;

use countersign_protocol::UnixMillis;
use countersign_retry::Retry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::horizon::Horizons;
use crate::ledger::{Began, Ledger, LockedJob};
use crate::log;
use crate::rules::job::{Job, JobState, Next};

/// Works on jobs. Any number of replicas may do it at once.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    /// The database with the jobs.
    pub(crate) ledger: Ledger,
    /// Tells which messages are too old.
    pub(crate) horizons: Horizons,
    /// How long a row that is granted a resend may wait to be asked for.
    pub(crate) park_after: Duration,
    /// Wakes this worker when an operator has created a job.
    pub(crate) created: Arc<Notify>,
    /// Starts a round when a job has made rows due.
    pub(crate) wake: Arc<Notify>,
}

/// How many items one transaction begins: it locks their rows until its end, and rounds and confirms wait
/// for these.
const BEGUN_AT_ONCE: u64 = 500;

/// How many items one transaction leaves out: it changes only items of the job, and locks no overdue row.
const SKIPPED_AT_ONCE: u64 = 5_000;

/// For how long a message that its upstream is asked for has to be young enough to be confirmed.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(60 * 60);

/// How long a job may wait for a replica that was not woken for it, and how often a replica looks
/// whether the items of a job have ended.
const POLL: Duration = Duration::from_millis(500);

impl Jobs {
    /// Works until `shutdown`; then the batch in hand is finished.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut retry = Retry::new("work on jobs").felt_by(self.ledger.pulse());
        while !shutdown.is_cancelled() {
            match self.round(&shutdown).await {
                Ok(true) => {}
                Ok(false) => {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = self.created.notified() => {}
                        () = tokio::time::sleep(POLL) => {}
                    }
                }
                Err(error) => {
                    if retry.wait(&error, &shutdown).await.is_err() {
                        return;
                    }
                    continue;
                }
            }
            retry.worked();
        }
    }

    /// Gives each job a turn. Returns whether a job changed.
    ///
    /// A job whose turn fails keeps no other one waiting; the last failure is returned.
    async fn round(&self, shutdown: &CancellationToken) -> Result<bool, sqlx::Error> {
        let (mut busy, mut failure) = (false, None);
        for id in self.ledger.open_jobs().await? {
            if shutdown.is_cancelled() {
                break;
            }
            match self.turn_of(id).await {
                Ok(changed) => busy |= changed,
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(busy), Err)
    }

    /// Takes one step of a job, unless another replica has it.
    async fn turn_of(&self, id: Uuid) -> Result<bool, sqlx::Error> {
        match self.ledger.take_job(id).await? {
            Some(turn) => self.turn(turn).await,
            None => Ok(false),
        }
    }

    /// Takes one step of one job. Returns whether there may be another one to take.
    async fn turn(&self, mut turn: LockedJob) -> Result<bool, sqlx::Error> {
        let before = turn.job.clone();
        let mut transitions = Vec::new();
        let mut next = turn.job.next(turn.now);
        while let Next::Step(step) = next {
            turn.job.step = step;
            next = turn.job.next(turn.now);
        }
        match next {
            Next::Begin(most) => {
                // While the clocks disagree, what is too old cannot be told: nothing begins.
                if let Ok(window) = self.horizons.now() {
                    let oldest = window.oldest.after(self.park_after + CONFIRMED_WITHIN);
                    transitions = begin(&mut turn, most.min(BEGUN_AT_ONCE), oldest).await?;
                }
            }
            Next::Stop(why) => {
                turn.job.state = JobState::Stopped;
                turn.job.reason = why;
            }
            Next::Skip => {
                let result = turn.job.left_out();
                turn.skip(SKIPPED_AT_ONCE, &result).await?;
            }
            Next::End => {
                turn.job.ended_at = Some(turn.now);
                if turn.job.state == JobState::Running {
                    turn.job.state = JobState::Done;
                }
            }
            Next::Wait | Next::Step(_) => {}
        }
        let waits = turn.job == before;
        if waits && !turn.has_counted() {
            turn.leave().await?;
            return Ok(false);
        }
        let goes_on = !waits || turn.has_more_to_count();
        let job = turn.job.clone();
        turn.end().await?;
        transitions.iter().for_each(log::transition);
        if !transitions.is_empty() {
            self.wake.notify_one();
        }
        tell(&before, &job);
        Ok(goes_on)
    }
}

/// Begins some items.
async fn begin(
    turn: &mut LockedJob,
    most: u64,
    oldest: UnixMillis,
) -> Result<Vec<crate::rules::overdue::Transition>, sqlx::Error> {
    let items = turn.next_items(most).await?;
    let (mut began, mut transitions, mut granted) = (Vec::new(), Vec::new(), Vec::new());
    for item in items {
        let beginning = turn.job.begin(item.overdue.as_ref(), &item.recorded, turn.now, oldest);
        if let (Some(up_to), Some(overdue)) = (beginning.grant, item.overdue) {
            granted.push((overdue.key, up_to));
        }
        transitions.extend(beginning.transition);
        began.push(Began {
            position: item.position,
            state: beginning.state,
            result: beginning.result,
        });
    }
    turn.begin(&began, &transitions, &granted).await?;
    let begun = u64::try_from(began.len()).unwrap_or(u64::MAX);
    turn.job.begins_at = turn.job.begins_next(begun, turn.now);
    Ok(transitions)
}

/// Logs a job that began a step, stopped or ended.
fn tell(before: &Job, job: &Job) {
    let (job_id, action, who): (_, &str, _) = (job.id, job.action.into(), &job.who);
    if before.state == job.state && before.step == job.step && job.ended_at.is_none() {
        return;
    }
    let crate::rules::job::Ended { succeeded, failed, skipped } = job.ended;
    let (items, state, step): (_, &str, _) = (job.items, job.state.into(), job.step);
    if job.state == JobState::Stopped && before.state != JobState::Stopped {
        warn!(%job_id, action, who, items, succeeded, failed, reason = job.reason, "a job stopped by itself");
    } else {
        info!(%job_id, action, who, items, succeeded, failed, skipped, state, step, "a job goes on");
    }
}

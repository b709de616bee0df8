//! Overdue messages that are due: taken under a lease, judged, and their upstreams asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_protocol::{Attempt, Name};
use countersign_retry::Retry;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;
use uuid::Uuid;

use crate::heal::upstreams::{Permit, Upstreams};
use crate::ledger::{Ledger, Taken, Tallies};
use crate::log;
use crate::rules::budget::{self, Pacing, Scene};
use crate::rules::overdue::{Cause, Change, Key, Overdue, Policy, Recorded, State, To, list};
use crate::rules::upstream_answer::{self, Answer};
use crate::rules::verdict::{Case, Verdict, judge, wanted};
use crate::watch::depths::WantedDepths;
use crate::watch::markers::MarkerNeed;

/// Heals overdue messages. Any number of replicas may do it at once.
#[derive(Clone, Debug)]
pub(crate) struct Resender {
    /// Where the overdue messages are.
    pub(crate) ledger: Ledger,
    /// Who is asked.
    pub(crate) upstreams: Upstreams,
    /// When it is given up.
    pub(crate) policy: Policy,
    /// How fast upstreams are asked.
    pub(crate) pacing: Pacing,
    /// How long a call may take, and the lease it is made under.
    pub(crate) timing: Timing,
    /// The confirm shards that a message can be confirmed through.
    pub(crate) shards: Vec<u16>,
    /// Who is told that a marker is needed.
    pub(crate) markers: MarkerNeed,
    /// Who is told which queues to look at.
    pub(crate) depths: WantedDepths,
    /// Woken when there may be something to judge.
    pub(crate) wake: Arc<Notify>,
}

/// How long asking takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a call may take. Less than a process may take to stop.
    pub call: Duration,
    /// How long nobody else may ask for the same message. Longer than a call, with room for the
    /// answer to be written; when a replica dies, its messages are held up for this long.
    pub lease: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { call: Duration::from_secs(5), lease: Duration::from_secs(20) }
    }
}

/// How many rows of one upstream are judged at once.
const JUDGED_AT_ONCE: u16 = 200;

/// How many answers are written at once.
const WRITTEN_AT_ONCE: usize = 200;

/// How long a row that has become due may wait for a replica that was not woken for it.
const POLL: Duration = Duration::from_millis(500);

/// The wait when rows are due, but somebody else has them locked.
const OTHERS_WORK: Duration = Duration::from_millis(50);

/// A message to be asked for, whose lease is committed.
#[derive(Debug)]
struct Asked {
    key: Key,
    lease: Uuid,
    taken: Instant,
    attempt: Attempt,
    missing: Vec<Name>,
    reason: String,
    permit: Permit,
}

/// What came of asking.
#[derive(Debug)]
struct Answered {
    key: Key,
    lease: Uuid,
    answer: Answer,
}

impl Resender {
    /// Judges and asks until `shutdown`; then waits for the calls under way and writes their
    /// answers.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let (answers, to_write) = mpsc::channel(WRITTEN_AT_ONCE);
        let writer = tokio::spawn(self.clone().write_answers(to_write, shutdown.clone()));
        let calls = TaskTracker::new();
        self.judge_what_is_due(&calls, &answers, &shutdown).await;
        calls.close();
        calls.wait().await;
        drop(answers);
        if let Err(error) = writer.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    async fn judge_what_is_due(
        &self,
        calls: &TaskTracker,
        answers: &mpsc::Sender<Answered>,
        shutdown: &CancellationToken,
    ) {
        let mut retry = Retry::new("look for overdue messages");
        while !shutdown.is_cancelled() {
            let pause = match self.round(calls, answers).await {
                Ok(pause) => pause,
                Err(error) => {
                    if retry.wait(&error, shutdown).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            retry.worked();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.wake.notified(), if pause > OTHERS_WORK => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Judges what is due, and says how long until there may be more.
    async fn round(
        &self,
        calls: &TaskTracker,
        answers: &mpsc::Sender<Answered>,
    ) -> Result<Duration, sqlx::Error> {
        let begun = Instant::now();
        let left_alone = self.upstreams.left_alone(begun);
        let park_after = self.policy.park_after;
        let until_due = self.ledger.next_due(&left_alone, park_after).await?;
        if until_due.is_none_or(|wait| !wait.is_zero()) {
            let until_asked = self.upstreams.next_to_be_asked(begun).map(|at| at - begun);
            return Ok([until_due, until_asked].into_iter().flatten().fold(POLL, Duration::min));
        }
        let lease = Uuid::new_v4();
        // First, so that what is recorded is at least as new.
        let whereabouts = self.ledger.whereabouts(&self.shards).await?;
        let Some(mut taken) = self.ledger.take_due(JUDGED_AT_ONCE, &left_alone, park_after).await?
        else {
            return Ok(OTHERS_WORK);
        };
        let mut changes = Vec::with_capacity(taken.rows.len());
        let mut asks = Vec::new();
        for (overdue, recorded) in &taken.rows {
            let address_known = self.upstreams.know(&overdue.key.upstream);
            let case = Case { overdue, recorded, address_known, whereabouts: &whereabouts };
            changes.push(match judge(&case, &self.policy, taken.now) {
                Verdict::Settled => overdue.settled(),
                Verdict::Defer { until, cause, why } => {
                    let wanted = wanted(&case, cause, &self.policy, taken.now);
                    wanted.marker_after.into_iter().for_each(|moment| self.markers.after(moment));
                    self.depths.want(wanted.queues);
                    overdue.change(To::Waiting { due: until }, cause, why)
                }
                Verdict::Park { cause, why } => {
                    let upstream = &overdue.key.upstream;
                    let held_back = self.upstreams.why_held_back(upstream, begun);
                    let why = match held_back.filter(|_| cause == Cause::OpenTooLong) {
                        Some(held_back) => format!("{why}; {held_back}"),
                        None => why,
                    };
                    overdue.change(To::Parked, cause, why)
                }
                Verdict::Ask { attempt, missing } => {
                    // Without a permit the row stays as it is: due.
                    let Some(permit) = self.upstreams.permit(&overdue.key.upstream, begun) else {
                        continue;
                    };
                    let due = taken.now.after(self.timing.lease);
                    let change = asking(overdue, &missing, To::Asking { lease, due });
                    let asked = Asked {
                        key: overdue.key.clone(),
                        lease,
                        taken: begun,
                        attempt,
                        missing,
                        reason: change.reason.clone(),
                        permit,
                    };
                    asks.push((asked, change));
                    continue;
                }
            });
        }
        let storms = self.pace(&mut taken, &mut asks).await?;
        let (asked, askings): (Vec<_>, Vec<_>) = asks.into_iter().unzip();
        changes.extend(askings);
        taken.write(&changes).await?;
        changes.iter().for_each(log::change);
        storms.iter().for_each(|(upstream, change)| log::storm(upstream, *change));
        fail::fail_point!("callback.asking", |_| std::process::abort());
        for asked in asked {
            calls.spawn(self.clone().ask(asked, answers.clone()));
        }
        Ok(Duration::ZERO)
    }

    /// Keeps of what is to be asked for as much as each upstream may be asked for now. The other rows
    /// stay as they are: due. Says where a storm begins or ends.
    async fn pace(
        &self,
        taken: &mut Taken,
        asks: &mut Vec<(Asked, Change)>,
    ) -> Result<Vec<(Name, budget::Change)>, sqlx::Error> {
        let mut wanted: BTreeMap<Name, u32> = BTreeMap::new();
        for (asked, _) in asks.iter() {
            *wanted.entry(asked.key.upstream.clone()).or_default() += 1;
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let upstreams: Vec<Name> = wanted.keys().cloned().collect();
        let mut paces = taken.paces(&upstreams, &self.pacing).await?;
        let mut may_ask: BTreeMap<Name, u32> = BTreeMap::new();
        let mut storms = Vec::new();
        for (upstream, paced) in &mut paces {
            let wanted = wanted.get(upstream).copied().unwrap_or(0);
            let scene = Scene { wanted, ..paced.scene };
            let decision = budget::decide(paced.pace, &scene, &self.pacing);
            let asking = decision.may_ask.min(wanted);
            paced.pace = decision.pace.spend(asking);
            may_ask.insert(upstream.clone(), asking);
            storms.extend(decision.change.map(|change| (upstream.clone(), change)));
            if asking < wanted {
                self.upstreams.enough(upstream, Instant::now() + decision.pause);
            }
        }
        taken.store_paces(&paces).await?;
        asks.retain(|(asked, _)| match may_ask.get_mut(&asked.key.upstream) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        });
        Ok(storms)
    }

    async fn ask(self, asked: Asked, answers: mpsc::Sender<Answered>) {
        let Asked { key, lease, taken, attempt, missing, reason, permit } = asked;
        let message_id = key.message_id;
        let answer = if taken.elapsed() + self.timing.call > self.timing.lease {
            // This process was stopped meanwhile: soon somebody else asks.
            Answer::NotAsked { why: "the lease was nearly over".to_owned() }
        } else {
            self.upstreams.ask(&permit, message_id, attempt, &missing, &reason).await
        };
        fail::fail_point!("callback.asked", |_| std::process::abort());
        info!(%message_id, upstream = %key.upstream, %attempt, consumer = list(&missing), ?answer, "asked for a resend");
        drop(permit);
        if !self.upstreams.is_left_alone(&key.upstream, Instant::now()) {
            self.wake.notify_one();
        }
        // The writer lives longer than any call.
        let _ = answers.send(Answered { key, lease, answer }).await;
    }

    async fn write_answers(
        self,
        mut answers: mpsc::Receiver<Answered>,
        shutdown: CancellationToken,
    ) {
        let mut retry = Retry::new("write down what upstreams answered");
        let mut batch = Vec::with_capacity(WRITTEN_AT_ONCE);
        while answers.recv_many(&mut batch, WRITTEN_AT_ONCE).await > 0 {
            while let Err(error) = self.write(&batch).await {
                if retry.wait(&error, &shutdown).await.is_err() {
                    // The leases run out, and these attempts count as used.
                    break;
                }
            }
            retry.worked();
            batch.clear();
        }
    }

    async fn write(&self, answered: &[Answered]) -> Result<(), sqlx::Error> {
        let by_lease: BTreeMap<(&Key, Uuid), &Answer> =
            answered.iter().map(|a| ((&a.key, a.lease), &a.answer)).collect();
        let by_key: BTreeMap<&Key, &Answer> =
            answered.iter().map(|a| (&a.key, &a.answer)).collect();
        let keys: Vec<Key> = by_key.keys().copied().cloned().collect();
        let Some(mut taken) = self.ledger.take(&keys).await? else { return Ok(()) };
        let hear = |(overdue, recorded): &(Overdue, Recorded)| {
            let answer = match overdue.lease {
                // While somebody asks, only who holds the lease is heard.
                Some(lease) => by_lease.get(&(&overdue.key, lease)),
                None => by_key.get(&overdue.key),
            };
            upstream_answer::hear(
                overdue,
                recorded,
                answer?,
                &self.policy,
                taken.now,
                fastrand::f64(),
            )
        };
        let changes: Vec<Change> = taken.rows.iter().filter_map(hear).collect();
        let (tallies, unused) = count(answered);
        taken.heard(&tallies, &unused, &self.pacing).await?;
        taken.write(&changes).await?;
        changes.iter().for_each(log::change);
        for upstream in unused.keys() {
            self.upstreams.not_enough(upstream);
            self.wake.notify_one();
        }
        Ok(())
    }
}

/// What upstreams said of whether messages were missing, and how many calls no resend came of.
fn count(answered: &[Answered]) -> (Tallies, BTreeMap<Name, u32>) {
    let (mut tallies, mut unused) = (Tallies::new(), BTreeMap::new());
    for Answered { key, answer, .. } in answered {
        if let Some(missing) = answer.says_missing() {
            let tally = tallies.entry(key.upstream.clone()).or_default();
            tally.missing += u64::from(missing);
            tally.not_missing += u64::from(!missing);
        }
        if !answer.may_have_sent() {
            *unused.entry(key.upstream.clone()).or_default() += 1;
        }
    }
    (tallies, unused)
}

/// Takes an attempt, in the same step as the lease.
fn asking(overdue: &Overdue, missing: &[Name], to: To) -> Change {
    let ran_out = match overdue.state {
        State::Asking => "; the one who asked before gave no answer back",
        _ => "",
    };
    Change {
        resends: overdue.resends.saturating_add(1),
        // If no answer is ever written down, it may have been sent again until then.
        missing_after: to.due(),
        ..overdue.change(
            to,
            Cause::NotConfirmed,
            format!("not confirmed by {}{ran_out}", list(missing)),
        )
    }
}

//! A round: due rows are taken, judged, and some of them asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_postgres::agree;
use countersign_protocol::Name;
use countersign_retry::Retry;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::heal::answers::{Answers, WRITTEN_AT_ONCE};
use crate::heal::calls::{Asked, Calls, Timing};
use crate::heal::upstreams::Upstreams;
use crate::ledger::{Ledger, Taken};
use crate::log;

use crate::rules::backlog::Whereabouts;
use crate::rules::budget::{self, Pacing, Scene, confirmed_canaries};
use crate::rules::cause::Cause;
use crate::rules::gate::Pause;
use crate::rules::overdue::{Key, Overdue, Policy, Transition, list};
use crate::rules::states::{Lease, State};
use crate::rules::verdict::{Case, Verdict, judge, wanted};
use crate::watch::depths::WantedDepths;
use crate::watch::markers::MarkerNeed;

/// Heals overdue messages, round by round.
#[derive(Clone, Debug)]
pub(crate) struct Rounds {
    /// The database with the overdue rows.
    pub(crate) ledger: Ledger,
    /// The upstreams that are asked.
    pub(crate) upstreams: Upstreams,
    /// When the service gives a message up.
    pub(crate) policy: Policy,
    /// How fast upstreams are asked.
    pub(crate) pacing: Pacing,
    /// How long a call may take, and the lease it is made under.
    pub(crate) timing: Timing,
    /// Takes from a round that it needs a marker.
    pub(crate) markers: MarkerNeed,
    /// Takes from a round the queues whose depths it wants.
    pub(crate) depths: WantedDepths,
    /// Starts a round before its time.
    pub(crate) wake: Arc<Notify>,
}

/// How many rows of one upstream are locked at once. Enough to use up every call of an upstream that
/// is not paused, and few enough that a look for confirms in all of them takes milliseconds.
const JUDGED_AT_ONCE: u16 = 200;

/// How long a due row waits at most for a replica that was not woken for it: another replica noted
/// it, or its time came. A look costs a few probes of indexes for each upstream.
const POLL: Duration = Duration::from_millis(500);

/// The wait when rows are due and another replica has them all locked. It judges them in
/// milliseconds.
const OTHER_REPLICA_WORKS: Duration = Duration::from_millis(50);

/// The wait while the clocks disagree; it is as long before the rows are judged after an operator has set one right.
const CLOCKS_DISAGREE: Duration = Duration::from_secs(10);

/// Due rows under their lock, and the facts beyond them.
struct Due {
    whereabouts: Whereabouts,
    taken: Taken,
}

/// The decisions of a round about its rows.
#[derive(Default)]
struct Judged {
    /// Rows that are settled, deferred or parked.
    transitions: Vec<Transition>,
    /// Rows to be asked for, if the upstream may be asked for so many.
    asks: Vec<(Asked, Transition)>,
}

impl Rounds {
    /// Heals until `shutdown`; then waits for the calls under way, and until their answers are
    /// written.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let (answers, to_write) = mpsc::channel(WRITTEN_AT_ONCE);
        let writer = Answers {
            ledger: self.ledger.clone(),
            upstreams: self.upstreams.clone(),
            policy: self.policy,
            pacing: self.pacing,
            wake: Arc::clone(&self.wake),
        };
        let writer = tokio::spawn(writer.run(to_write, shutdown.clone()));
        let calls =
            Calls::new(self.upstreams.clone(), self.timing, answers, Arc::clone(&self.wake));
        self.go_round(&calls, &shutdown).await;
        calls.finish().await;
        if let Err(error) = writer.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    async fn go_round(&self, calls: &Calls, shutdown: &CancellationToken) {
        let mut retry = Retry::new("look for overdue messages").felt_by(self.ledger.pulse());
        while !shutdown.is_cancelled() {
            let pause = match self.round(calls).await {
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
                () = self.wake.notified(), if pause > OTHER_REPLICA_WORKS => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Goes one round. Returns how long to wait before the next one.
    async fn round(&self, calls: &Calls) -> Result<Duration, sqlx::Error> {
        let now = Instant::now();
        let due = match self.take(now).await? {
            Ok(due) => due,
            Err(pause) => return Ok(pause),
        };
        if let Err(why) = agree(due.taken.now) {
            // By a clock that is days ahead every open row would be past its time, and be parked.
            warn!(%why, "no overdue row is judged");
            return Ok(CLOCKS_DISAGREE);
        }
        let judged = self.judge_all(&due, now);
        let asked = self.ask_some(due.taken, judged).await?;
        fail::fail_point!("callback.asking", |_| std::process::abort());
        asked.into_iter().for_each(|asked| calls.make(asked));
        Ok(Duration::ZERO)
    }

    /// Locks due rows of the upstreams that are not paused; or returns how long until there may be some.
    async fn take(&self, now: Instant) -> Result<Result<Due, Duration>, sqlx::Error> {
        let paused = self.upstreams.paused(now);
        let park_after = self.policy.park_after;
        let until_due = self.ledger.next_due(&paused, park_after).await?;
        if until_due.is_none_or(|wait| !wait.is_zero()) {
            let until_reopened = self.upstreams.next_reopens(now).map(|at| at - now);
            return Ok(Err([until_due, until_reopened]
                .into_iter()
                .flatten()
                .fold(POLL, Duration::min)));
        }
        // Read before the rows are locked and their confirms read: the facts beyond a row must never be
        // newer than the confirms and reports of its message.
        let whereabouts = self.ledger.whereabouts().await?;
        let taken = self.ledger.take_due(JUDGED_AT_ONCE, &paused, park_after).await?;
        Ok(taken.map(|taken| Due { whereabouts, taken }).ok_or(OTHER_REPLICA_WORKS))
    }

    /// Judges each row. A row that the upstream is to be asked for and that gets no permit is in neither
    /// list: it stays as it is, due.
    fn judge_all(&self, due: &Due, now: Instant) -> Judged {
        let expires_at = due.taken.now.after(self.timing.lease);
        let lease = Lease { token: Uuid::new_v4(), expires_at };
        let mut judged = Judged::default();
        for (overdue, recorded) in &due.taken.rows {
            let Key { upstream, .. } = &overdue.key;
            let address_known = self.upstreams.know(upstream);
            let case = Case { overdue, recorded, address_known, whereabouts: &due.whereabouts };
            let transition = match judge(&case, &self.policy, due.taken.now) {
                Verdict::Settled => overdue.settled(),
                Verdict::Defer { until, cause, why } => {
                    self.want(&case, cause, due);
                    overdue.transition(State::Waiting { due: until }, cause, why)
                }
                Verdict::Park { cause, why } => {
                    let why = match self.upstreams.paused_lately(upstream, now) {
                        Some(pause) if cause == Cause::OpenTooLong => {
                            format!("{why}; {}", paused_because(upstream, pause))
                        }
                        _ => why,
                    };
                    overdue.transition(State::Parked, cause, why)
                }
                Verdict::Ask { attempt, missing } => {
                    let Some(permit) = self.upstreams.permit(upstream, now) else { continue };
                    let transition = asking(overdue, &missing, lease);
                    let key = overdue.key.clone();
                    let reason = transition.reason.clone();
                    let database = overdue.origin.database();
                    let asked = Asked {
                        key,
                        database,
                        lease,
                        taken: now,
                        attempt,
                        missing,
                        reason,
                        permit,
                    };
                    judged.asks.push((asked, transition));
                    continue;
                }
            };
            judged.transitions.push(transition);
        }
        judged
    }

    /// Asks for the marker and the depths without which a deferred row would be judged the same again.
    fn want(&self, case: &Case<'_>, cause: Cause, due: &Due) {
        let wanted = wanted(case, cause, &self.policy, due.taken.now);
        wanted.marker_after.into_iter().for_each(|moment| self.markers.after(moment));
        self.depths.want(wanted.queues);
    }

    /// Writes the transitions of the rows, and the leases of those that upstreams are asked for: as many
    /// as each upstream may be asked for now. The others stay as they are, due.
    async fn ask_some(&self, mut taken: Taken, judged: Judged) -> Result<Vec<Asked>, sqlx::Error> {
        let Judged { mut transitions, mut asks } = judged;
        let confirmed = confirmed_canaries(&transitions);
        let storms = self.pace(&mut taken, &mut asks, &confirmed).await?;
        let (asked, askings): (Vec<_>, Vec<_>) = asks.into_iter().unzip();
        transitions.extend(askings);
        taken.add_canaries(&confirmed).await?;
        taken.write(&transitions).await?;
        transitions.iter().for_each(log::transition);
        storms.iter().for_each(|(upstream, change)| log::storm(upstream, *change));
        Ok(asked)
    }

    /// Keeps of `asks` what each upstream may be asked for now. Returns the
    /// upstreams whose storms begin or end.
    /// The upstreams of the `confirmed` canaries, which are added later, are locked along.
    async fn pace(
        &self,
        taken: &mut Taken,
        asks: &mut Vec<(Asked, Transition)>,
        confirmed: &BTreeMap<Name, u32>,
    ) -> Result<Vec<(Name, budget::Change)>, sqlx::Error> {
        let mut wanted: BTreeMap<Name, u32> = BTreeMap::new();
        for (asked, _) in asks.iter() {
            *wanted.entry(asked.key.upstream.clone()).or_default() += 1;
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let upstreams: Vec<Name> = wanted.keys().cloned().collect();
        let mut paces = taken.paces(&upstreams, confirmed, &self.pacing).await?;
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
                self.upstreams.limit(upstream, Instant::now() + decision.pause);
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
}

/// The transition to asking: uses up an attempt in the same step in which the row gets its lease.
fn asking(overdue: &Overdue, missing: &[Name], lease: Lease) -> Transition {
    let ran_out = match overdue.state {
        State::Asking { .. } => "; the replica that asked before wrote no answer down",
        _ => "",
    };
    Transition {
        resends: overdue.resends.saturating_add(1),
        // If this replica dies, the upstream may have sent the message again until the lease ends.
        missing_after: Some(lease.expires_at),
        ..overdue.transition(
            State::Asking { lease },
            Cause::NotConfirmed,
            format!("not confirmed by {}{ran_out}", list(missing)),
        )
    }
}

/// Why the upstream was not asked for a row that is parked, for the row's reason.
fn paused_because(upstream: &Name, pause: Pause) -> String {
    match pause {
        Pause::CircuitOpen => format!("{upstream} does not answer"),
        Pause::RateLimitReached | Pause::EnoughCalls => {
            format!("{upstream} is asked for only so many at a time, and others were first")
        }
    }
}

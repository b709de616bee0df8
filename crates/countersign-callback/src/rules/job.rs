//! A job: what an operator wants done about some messages, and the next step towards it. Decided
//! here, done in `jobs`.

use countersign_protocol::UnixMillis;
use strum::{Display, EnumString, IntoStaticStr, VariantArray};
use uuid::Uuid;

use crate::rules::cause::Cause;
use crate::rules::overdue::{Overdue, Recorded, Transition};
use crate::rules::states::{State, StateName, is_step};

/// A job as it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    /// Which.
    pub(crate) id: Uuid,
    /// What is done.
    pub(crate) action: Action,
    /// Where it stands.
    pub(crate) state: JobState,
    /// The operator who cancelled it and why, or why it stopped by itself.
    pub(crate) reason: String,
    /// The operator who created it.
    pub(crate) who: String,
    /// Why.
    pub(crate) why: String,
    /// When, on the database's clock.
    pub(crate) created_at: UnixMillis,
    /// When its last item ended, on the database's clock.
    pub(crate) ended_at: Option<UnixMillis>,
    /// The most items begun in a second.
    pub(crate) rate: Option<f64>,
    /// When the rate lets the next one begin, on the database's clock.
    pub(crate) begins_at: Option<UnixMillis>,
    /// How many items may be begun in all at this step; 0: all.
    pub(crate) step: u64,
    /// All of its items.
    pub(crate) items: u64,
    /// Whether the items are still there.
    pub(crate) items_kept: bool,
    /// Those that are begun.
    pub(crate) begun: u64,
    /// How its items ended.
    pub(crate) ended: Ended,
}

/// How many items ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Well.
    pub(crate) succeeded: u64,
    /// Otherwise.
    pub(crate) failed: u64,
    /// There was nothing to do, or the job ended first.
    pub(crate) skipped: u64,
}

/// What is done about each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Action {
    /// One more resend.
    Resend,
    /// Nothing more is done about it.
    Close,
    /// Something is noted.
    Note,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum JobState {
    /// There is something to do, or to wait for.
    Running,
    /// Every item has ended.
    Done,
    /// By an operator.
    Cancelled,
    /// By itself: too much failed.
    Stopped,
}

/// Where an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum ItemState {
    /// Not begun.
    Pending,
    /// Its outcome is waited for.
    Begun,
    /// See [`Ended::succeeded`].
    Succeeded,
    /// See [`Ended::failed`].
    Failed,
    /// See [`Ended::skipped`].
    Skipped,
}

/// What is to be done next for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Begin some items, as many as this.
    Begin(u64),
    /// Go on to this step.
    Step(u64),
    /// Begin nothing more.
    Stop(String),
    /// Leave the rest out.
    Skip,
    /// Nothing, until items end or the rate allows.
    Wait,
    /// Every item has ended.
    End,
}

/// How an item begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Where the item stands then.
    pub(crate) state: ItemState,
    /// What came of it so far.
    pub(crate) result: String,
    /// What becomes of the row.
    pub(crate) transition: Option<Transition>,
    /// Up to how many resends the row is granted; what its consumers rejected before is forgotten.
    pub(crate) grant: Option<u32>,
}

/// The step that every job begins with; then 5, 25, all.
pub(crate) const FIRST_STEP: u64 = 1;
/// All at once.
pub(crate) const ALL_AT_ONCE: u64 = 0;
const LATER_STEPS: [u64; 2] = [5, 25];

/// More than one in so many failed: the job stops.
const ONE_FAILURE_IN: u64 = 5;
/// While all may begin, so many have to have ended before they are judged.
const ENOUGH_TO_JUDGE: u64 = 25;

impl Job {
    /// Those that are not begun.
    #[must_use]
    pub(crate) fn pending(&self) -> u64 {
        self.items.saturating_sub(self.begun).saturating_sub(self.ended.all())
    }

    /// What is to be done next, at `now` on the database's clock.
    #[must_use]
    pub(crate) fn next(&self, now: UnixMillis) -> Next {
        match (self.state, self.pending(), self.begun) {
            (_, 0, 0) => return Next::End,
            (_, 0, _) => return Next::Wait,
            (JobState::Running, ..) => {}
            _ => return Next::Skip,
        }
        let begun_in_all = self.begun + self.ended.succeeded + self.ended.failed;
        let left = match self.step {
            ALL_AT_ONCE => u64::MAX,
            step => step.saturating_sub(begun_in_all),
        };
        if self.fails_too_often() {
            return Next::Stop(self.why_it_stops());
        }
        if left == 0 {
            return if self.begun == 0 { Next::Step(step_after(self.step)) } else { Next::Wait };
        }
        match self.allowance(now).min(left) {
            0 => Next::Wait,
            some => Next::Begin(some),
        }
    }

    /// When the rate lets the next item begin, after so many have.
    #[must_use]
    pub(crate) fn begins_next(&self, begun: u64, now: UnixMillis) -> Option<UnixMillis> {
        let ms = (begun as f64 / self.rate? * 1_000.0).ceil();
        Some(UnixMillis::from_ms(self.begins_from(now).ms().saturating_add(ms as i64)))
    }

    /// How many items the rate lets begin now: not more than a second's worth, whatever was left
    /// unused before, but one at least when its time has come.
    fn allowance(&self, now: UnixMillis) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let from = self.begins_from(now);
        if from > now {
            return 0;
        }
        ((now.since(from).as_secs_f64() * rate) as u64).saturating_add(1)
    }

    fn begins_from(&self, now: UnixMillis) -> UnixMillis {
        const A_SECOND: std::time::Duration = std::time::Duration::from_secs(1);
        let earliest = now.before(A_SECOND);
        self.begins_at.map_or(now, |at| at.max(earliest))
    }

    /// The first canary may not fail. Later a fifth of what has ended may: judged at the end of a
    /// step, and all the time when all may begin.
    fn fails_too_often(&self) -> bool {
        if self.action != Action::Resend {
            return false;
        }
        let Ended { succeeded, failed, .. } = self.ended;
        let too_often = failed * ONE_FAILURE_IN > succeeded + failed;
        match self.step {
            FIRST_STEP => failed > 0,
            ALL_AT_ONCE => too_often && succeeded + failed >= ENOUGH_TO_JUDGE,
            _ => too_often && self.begun == 0,
        }
    }

    fn why_it_stops(&self) -> String {
        let Ended { succeeded, failed, .. } = self.ended;
        format!(
            "{failed} of {} failed: nothing more is begun. Look at the failed ones and mend the cause, then ask for the rest again",
            succeeded + failed
        )
    }

    /// What is noted about items that are left out.
    #[must_use]
    pub(crate) fn left_out(&self) -> String {
        format!("not begun: the job was {}: {}", self.state, self.reason)
    }

    /// How an item begins, given its row, if there is one, and what is recorded about its message.
    /// Confirms of messages made before `oldest` cannot be recorded.
    #[must_use]
    pub(crate) fn begin(
        &self,
        overdue: Option<&Overdue>,
        recorded: &Recorded,
        now: UnixMillis,
        oldest: UnixMillis,
    ) -> Beginning {
        let ended =
            |state, result: String| Beginning { state, result, transition: None, grant: None };
        if self.action == Action::Note {
            return ended(ItemState::Succeeded, "noted".to_owned());
        }
        let Some(overdue) = overdue else {
            let result = match recorded.confirmed.as_slice() {
                [] => "not overdue: nothing is known of it here".to_owned(),
                confirmed => format!("confirmed by {}", crate::rules::overdue::list(confirmed)),
            };
            return ended(ItemState::Skipped, result);
        };
        let state = overdue.state.name();
        if is_step(state, StateName::Confirmed) && overdue.missing(recorded).is_empty() {
            let settled = overdue.settled();
            return Beginning {
                transition: Some(settled.clone()),
                ..ended(ItemState::Skipped, settled.reason)
            };
        }
        let is_open = matches!(state, StateName::Waiting | StateName::Asking | StateName::Parked);
        if self.action == Action::Resend && is_open && overdue.key.message_id.time() < oldest {
            let result = "older than COUNTERSIGN_RETENTION: the confirm of a resend could not be recorded. Close it; if it is still wanted, have its upstream send a new message";
            return ended(ItemState::Skipped, result.to_owned());
        }
        match (self.action, state) {
            (Action::Resend, StateName::Asking) => Beginning {
                ..ended(ItemState::Begun, "its upstream is being asked already".to_owned())
            },
            (Action::Resend, StateName::Waiting | StateName::Parked) => {
                let reason = format!("{} asked for a resend: {}", self.who, self.why);
                let transition =
                    overdue.transition(State::Waiting { due: now }, Cause::AskedByHand, reason);
                Beginning {
                    transition: Some(Transition { calls_not_made: 0, ..transition }),
                    grant: Some(overdue.resends.saturating_add(1)),
                    ..ended(ItemState::Begun, "one more resend is granted".to_owned())
                }
            }
            (Action::Close, _) if is_step(state, StateName::ClosedByHand) => {
                let reason = format!("closed by {}: {}", self.who, self.why);
                let transition =
                    overdue.transition(State::ClosedByHand, Cause::ClosedByHand, reason);
                let was = match state {
                    StateName::Conflict => "closed; it was a conflict".to_owned(),
                    state => format!("closed; it was {state}: {}", overdue.reason),
                };
                Beginning { transition: Some(transition), ..ended(ItemState::Succeeded, was) }
            }
            (_, state) => ended(ItemState::Skipped, format!("{state} already: {}", overdue.reason)),
        }
    }
}

impl ItemState {
    /// How the items end that wait for a row, and what came of them; `None` while the row is open.
    #[must_use]
    pub(crate) fn after(transition: &Transition) -> Option<(Self, String)> {
        match transition.to.name() {
            StateName::Confirmed => Some((Self::Succeeded, transition.reason.clone())),
            to if to.facts().open => None,
            to => Some((Self::Failed, format!("{to}: {}", transition.reason))),
        }
    }
}

fn step_after(step: u64) -> u64 {
    LATER_STEPS.into_iter().find(|later| *later > step).unwrap_or(ALL_AT_ONCE)
}

impl Ended {
    /// All of them.
    #[must_use]
    pub(crate) fn all(self) -> u64 {
        self.succeeded + self.failed + self.skipped
    }

    /// Counts more.
    pub(crate) fn add(&mut self, state: ItemState, more: u64) {
        match state {
            ItemState::Pending | ItemState::Begun => {}
            ItemState::Succeeded => self.succeeded += more,
            ItemState::Failed => self.failed += more,
            ItemState::Skipped => self.skipped += more,
        }
    }
}

#[cfg(test)]
mod tests;

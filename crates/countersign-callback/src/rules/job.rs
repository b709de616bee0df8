//! A job: what somebody wants done about some messages, and what is to be done next for it. Decided
//! here, done in `jobs`.

use std::fmt;
use std::str::FromStr;

use countersign_protocol::UnixMillis;
use uuid::Uuid;

use crate::rules::overdue::{Cause, Change, Closed, Overdue, Recorded, State, To};

/// A job as it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    /// Which.
    pub(crate) id: Uuid,
    /// What is done.
    pub(crate) action: Action,
    /// Where it stands.
    pub(crate) state: JobState,
    /// Who cancelled it and why, or why it stopped by itself.
    pub(crate) reason: String,
    /// Who asked for it.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// One more resend.
    Resend,
    /// Nothing more is done about it.
    Close,
    /// Something is noted.
    Note,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    /// There is something to do, or to wait for.
    Running,
    /// Every item has ended.
    Done,
    /// By somebody.
    Cancelled,
    /// By itself: too much failed.
    Stopped,
}

/// Where an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub(crate) change: Option<Change>,
    /// Up to how many resends the row is granted; what its consumers rejected before is forgotten.
    pub(crate) grant: Option<u32>,
}

/// The step that everybody begins with; then 5, 25, all.
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
        (now.since(from).as_secs_f64() * rate) as u64 + 1
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
        format!("not begun: the job was {}: {}", self.state.as_str(), self.reason)
    }

    /// How an item begins, given its row, if there is one, and what is recorded about its message.
    #[must_use]
    pub(crate) fn begin(
        &self,
        overdue: Option<&Overdue>,
        recorded: &Recorded,
        now: UnixMillis,
    ) -> Beginning {
        let ended = |state, result: String| Beginning { state, result, change: None, grant: None };
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
        let open = matches!(overdue.state, State::Waiting | State::Asking | State::Parked);
        if open && overdue.missing(recorded).is_empty() {
            let settled = overdue.settled();
            return Beginning {
                change: Some(settled.clone()),
                ..ended(ItemState::Skipped, settled.reason)
            };
        }
        match (self.action, overdue.state) {
            (Action::Resend, State::Asking) => Beginning {
                ..ended(ItemState::Begun, "its upstream is being asked already".to_owned())
            },
            (Action::Resend, State::Waiting | State::Parked) => {
                let reason = format!("{} asked for a resend: {}", self.who, self.why);
                let change = overdue.change(To::Waiting { due: now }, Cause::AskedByHand, reason);
                Beginning {
                    change: Some(Change { returned: 0, ..change }),
                    grant: Some(overdue.resends.saturating_add(1)),
                    ..ended(ItemState::Begun, "one more resend is granted".to_owned())
                }
            }
            (Action::Close, State::Waiting | State::Asking | State::Parked | State::Conflict) => {
                let reason = format!("closed by {}: {}", self.who, self.why);
                let change =
                    overdue.change(To::Closed(Closed::ByHand), Cause::ClosedByHand, reason);
                let was = match overdue.state {
                    State::Conflict => "closed; it was a conflict".to_owned(),
                    state => format!("closed; it was {state}: {}", overdue.reason),
                };
                Beginning { change: Some(change), ..ended(ItemState::Succeeded, was) }
            }
            (_, state) => ended(ItemState::Skipped, format!("{state} already: {}", overdue.reason)),
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

impl Action {
    /// Every one.
    pub(crate) const ALL: [Self; 3] = [Self::Resend, Self::Close, Self::Note];

    /// Its name.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Resend => "resend",
            Self::Close => "close",
            Self::Note => "note",
        }
    }
}

impl JobState {
    /// Every one.
    pub(crate) const ALL: [Self; 4] = [Self::Running, Self::Done, Self::Cancelled, Self::Stopped];

    /// Its name.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Stopped => "stopped",
        }
    }
}

impl ItemState {
    /// Every one.
    pub(crate) const ALL: [Self; 5] =
        [Self::Pending, Self::Begun, Self::Succeeded, Self::Failed, Self::Skipped];

    /// Its name.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Begun => "begun",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// A word that is none of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownWord(String);

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no word of a job", self.0)
    }
}

fn word<T: Copy>(text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, UnknownWord> {
    let found = all.iter().find(|one| name(**one) == text);
    found.copied().ok_or_else(|| UnknownWord(text.to_owned()))
}

impl FromStr for Action {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        word(text, &Self::ALL, Self::as_str)
    }
}

impl FromStr for JobState {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        word(text, &Self::ALL, Self::as_str)
    }
}

impl FromStr for ItemState {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        word(text, &Self::ALL, Self::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_protocol::{MessageId, Name};

    use super::*;
    use crate::rules::overdue::Key;

    const NOW: i64 = 1_795_231_234_567;

    fn now() -> UnixMillis {
        UnixMillis::from_ms(NOW)
    }

    fn job(step: u64, items: u64, begun: u64, succeeded: u64, failed: u64) -> Job {
        let ended = Ended { succeeded, failed, skipped: 0 };
        Job {
            id: Uuid::nil(),
            action: Action::Resend,
            state: JobState::Running,
            reason: String::new(),
            who: "ada".to_owned(),
            why: "the consumer is mended".to_owned(),
            created_at: now(),
            ended_at: None,
            rate: None,
            begins_at: None,
            step,
            items,
            begun,
            ended,
        }
    }

    #[test]
    fn canaries_go_first_and_the_rest_when_they_have_ended_well() {
        let stops = |next: Next| matches!(next, Next::Stop(_));
        for (what, job, expected) in [
            ("at first one", job(1, 100, 0, 0, 0), Next::Begin(1)),
            ("its outcome is waited for", job(1, 100, 1, 0, 0), Next::Wait),
            ("it succeeded", job(1, 100, 0, 1, 0), Next::Step(5)),
            ("four more", job(5, 100, 0, 1, 0), Next::Begin(4)),
            ("some have not ended", job(5, 100, 2, 3, 0), Next::Wait),
            ("one of five may fail", job(5, 100, 0, 4, 1), Next::Step(25)),
            ("some of the step are waited for", job(25, 100, 5, 10, 10), Next::Wait),
            ("five of 25 may fail", job(25, 100, 0, 20, 5), Next::Step(0)),
            ("all", job(0, 100, 0, 20, 4), Next::Begin(u64::MAX)),
            ("few of all have ended", job(0, 100, 10, 0, 24), Next::Begin(u64::MAX)),
            ("fewer than a step", job(5, 3, 0, 1, 0), Next::Begin(4)),
            ("nothing is left", job(5, 3, 0, 3, 0), Next::End),
            ("the last are waited for", job(5, 3, 1, 2, 0), Next::Wait),
        ] {
            assert_eq!(job.next(now()), expected, "{what}");
        }
        for (what, job) in [
            ("the first failed", job(1, 100, 0, 0, 1)),
            ("two of five failed", job(5, 100, 0, 3, 2)),
            ("six of 25 failed", job(25, 100, 0, 19, 6)),
            ("a third of those that ended failed", job(0, 100, 50, 20, 10)),
        ] {
            assert!(stops(job.next(now())), "{what}: {:?}", job.next(now()));
        }
    }

    #[test]
    fn what_does_not_run_leaves_the_rest_out_and_waits_for_what_is_begun() {
        for state in [JobState::Cancelled, JobState::Stopped] {
            let of = |items, begun| Job { state, ..job(25, items, begun, 5, 5) };
            assert_eq!(of(100, 3).next(now()), Next::Skip);
            assert_eq!(of(13, 3).next(now()), Next::Wait);
            assert_eq!(of(10, 0).next(now()), Next::End);
        }
    }

    #[test]
    fn a_rate_is_kept_and_not_made_up_for() {
        let at = |rate: f64, waited_ms: i64| {
            let begins_at = Some(UnixMillis::from_ms(NOW - waited_ms));
            Job { rate: Some(rate), begins_at, ..job(0, 1_000, 0, 0, 0) }
        };
        for (rate, waited_ms, expected) in [
            (10.0, -1, Next::Wait),
            (10.0, 0, Next::Begin(1)),
            (10.0, 99, Next::Begin(1)),
            (10.0, 200, Next::Begin(3)),
            (10.0, 3_600_000, Next::Begin(11)),
            (0.1, 0, Next::Begin(1)),
            (0.1, 3_600_000, Next::Begin(1)),
        ] {
            assert_eq!(at(rate, waited_ms).next(now()), expected, "{rate}/s, {waited_ms} ms");
        }
        let next = |job: &Job, begun| job.begins_next(begun, now()).unwrap().ms() - NOW;
        assert_eq!(next(&at(10.0, 0), 1), 100);
        assert_eq!(next(&at(0.1, 0), 1), 10_000);
        assert_eq!(next(&at(10.0, 3_600_000), 11), 100, "not an hour's worth");
        let first = Job { begins_at: None, ..at(10.0, 0) };
        assert_eq!(first.next(now()), Next::Begin(1));
    }

    fn row(state: State) -> Overdue {
        Overdue {
            key: Key {
                message_id: MessageId::from_parts(now(), [0; 10]),
                upstream: "orders".parse().unwrap(),
            },
            consumers: vec!["logistics".parse().unwrap()],
            state,
            reason: "as it was".to_owned(),
            resends: 3,
            returned: 2,
            granted: 0,
            granted_at: None,
            since: now().before(Duration::from_secs(60)),
            missing_after: now().before(Duration::from_secs(60)),
            sent_at: None,
            lease: None,
        }
    }

    const STATES: [State; 8] = [
        State::Waiting,
        State::Asking,
        State::Parked,
        State::Confirmed,
        State::NeverCommitted,
        State::Withdrawn,
        State::Conflict,
        State::ClosedByHand,
    ];

    #[test]
    fn each_action_begins_as_the_row_allows() {
        use ItemState::{Begun, Skipped, Succeeded};
        for (action, expected) in [
            (Action::Resend, [Begun, Begun, Begun, Skipped, Skipped, Skipped, Skipped, Skipped]),
            (
                Action::Close,
                [Succeeded, Succeeded, Succeeded, Skipped, Skipped, Skipped, Succeeded, Skipped],
            ),
            (Action::Note, [Succeeded; 8]),
        ] {
            let job = Job { action, ..job(0, 1, 0, 0, 0) };
            for (state, expected) in STATES.into_iter().zip(expected) {
                let begun = job.begin(Some(&row(state)), &Recorded::default(), now());
                assert_eq!(begun.state, expected, "{action:?}, {state}");
                assert!(!begun.result.is_empty());
                let grants =
                    action == Action::Resend && matches!(state, State::Waiting | State::Parked);
                assert_eq!(begun.grant, grants.then_some(4), "{action:?}, {state}");
                let changes = grants || (action == Action::Close && expected == Succeeded);
                assert_eq!(begun.change.is_some(), changes, "{action:?}, {state}");
            }
        }
    }

    #[test]
    fn what_is_confirmed_meanwhile_is_settled_and_left_out() {
        let logistics: Name = "logistics".parse().unwrap();
        let recorded = Recorded { confirmed: vec![logistics], ..Recorded::default() };
        for action in [Action::Resend, Action::Close] {
            let job = Job { action, ..job(0, 1, 0, 0, 0) };
            let begun = job.begin(Some(&row(State::Parked)), &recorded, now());
            assert_eq!(begun.state, ItemState::Skipped);
            assert_eq!(begun.change.unwrap().to, To::Closed(Closed::Confirmed));
            let unknown = job.begin(None, &recorded, now());
            assert_eq!(unknown.result, "confirmed by logistics");
            let unknown = job.begin(None, &Recorded::default(), now());
            assert_eq!(unknown.state, ItemState::Skipped);
        }
    }
}

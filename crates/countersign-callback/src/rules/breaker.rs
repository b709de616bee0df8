//! Whether an upstream is asked at all: one that does not answer is paused for a while.
//!
//! Each replica finds out for itself, in memory: there is nothing to agree on, and a replica that
//! cannot reach an upstream says nothing about the others. While an upstream is paused its rows
//! stay as they are: nothing is written, and no attempt is used.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// So many calls in a row without an answer, and the circuit opens. One or two are a
/// restart.
const SILENT_CALLS: u32 = 5;

/// How long the circuit stays open at first. It doubles with each call that tries and gets no answer.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How long the circuit stays open at most: overdue rows should not wait long when the upstream is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// By how much a pause is lengthened at most, so that replicas do not try together.
const JITTER: f64 = 0.25;

/// What is known of one upstream's answering.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Counts the changes of state: what a call that began in an earlier state comes to, does not
    /// count in this one.
    changes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// It is asked.
    Closed { silent: u32 },
    /// The upstream is paused.
    Open { until: Instant, pause: Duration },
    /// One call tries.
    HalfOpen { trying: bool, pause: Duration },
}

/// The right to make one call, as far as the breaker is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn(u64);

/// A change of state: what is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The upstream is paused for this long.
    Opened(Duration),
    /// One call tries.
    HalfOpened,
    /// It is asked again.
    Closed,
}

impl Breaker {
    /// Of an upstream that was never asked.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { state: State::Closed { silent: 0 }, changes: 0 }
    }

    /// Whether a call could be made now.
    #[must_use]
    pub(crate) fn lets(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, .. } => until <= now,
            State::HalfOpen { trying, .. } => !trying,
        }
    }

    /// Whether it is asked as if nothing had ever been the matter.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// When a call can be made for which it is too early now.
    #[must_use]
    pub(crate) fn until(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// The right to a call that is about to be made; `None` if none may be.
    pub(crate) fn turn(&mut self, now: Instant) -> Option<(Turn, Option<Change>)> {
        if !self.lets(now) {
            return None;
        }
        let change = match self.state {
            State::Closed { .. } => None,
            State::Open { pause, .. } => {
                Some(self.change_to(State::HalfOpen { trying: true, pause }, Change::HalfOpened))
            }
            State::HalfOpen { pause, .. } => {
                self.state = State::HalfOpen { trying: true, pause };
                None
            }
        };
        Some((Turn(self.changes), change))
    }

    /// The upstream answered, whatever it said.
    pub(crate) fn answered(&mut self, turn: Turn) -> Option<Change> {
        if turn != Turn(self.changes) {
            return None;
        }
        match self.state {
            State::Closed { .. } => {
                self.state = State::Closed { silent: 0 };
                None
            }
            State::Open { .. } => None,
            State::HalfOpen { .. } => {
                Some(self.change_to(State::Closed { silent: 0 }, Change::Closed))
            }
        }
    }

    /// The call was not made, or not answered. `jitter` is a random number from 0 to 1.
    pub(crate) fn silent(&mut self, turn: Turn, now: Instant, jitter: f64) -> Option<Change> {
        if turn != Turn(self.changes) {
            return None;
        }
        let pause = match self.state {
            State::Closed { silent } if silent + 1 < SILENT_CALLS => {
                self.state = State::Closed { silent: silent + 1 };
                return None;
            }
            State::Closed { .. } => FIRST_PAUSE,
            State::HalfOpen { pause, .. } => pause.saturating_mul(2).min(LONGEST_PAUSE),
            State::Open { .. } => return None,
        };
        let jittered = pause + pause.mul_f64(JITTER * jitter.clamp(0.0, 1.0));
        let open = State::Open { until: now + jittered, pause };
        Some(self.change_to(open, Change::Opened(jittered)))
    }

    /// The call is not made after all, or its end is known: another one may try.
    pub(crate) fn given_back(&mut self, turn: Turn) {
        if turn == Turn(self.changes)
            && let State::HalfOpen { trying, .. } = &mut self.state
        {
            *trying = false;
        }
    }

    fn change_to(&mut self, state: State, change: Change) -> Change {
        self.state = state;
        self.changes += 1;
        change
    }
}

/// The names of the API and the log.
impl fmt::Display for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half_open",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_JITTER: f64 = 0.0;

    /// A breaker that so many calls in a row have got no answer through.
    fn after_silent(calls: u32, now: Instant) -> (Breaker, Option<Change>) {
        let mut breaker = Breaker::new();
        let mut last = None;
        for _ in 0..calls {
            let (turn, _) = breaker.turn(now).unwrap();
            last = breaker.silent(turn, now, NO_JITTER);
        }
        (breaker, last)
    }

    #[test]
    fn a_few_silent_calls_in_a_row_open_it() {
        let now = Instant::now();
        let (breaker, change) = after_silent(SILENT_CALLS - 1, now);
        assert_eq!((change, breaker.lets(now)), (None, true));
        let (breaker, change) = after_silent(SILENT_CALLS, now);
        assert_eq!(change, Some(Change::Opened(FIRST_PAUSE)));
        assert!(!breaker.lets(now));
        assert_eq!(breaker.until(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn an_answer_in_between_begins_the_count_anew() {
        let now = Instant::now();
        let (mut breaker, _) = after_silent(SILENT_CALLS - 1, now);
        let (turn, _) = breaker.turn(now).unwrap();
        assert_eq!(breaker.answered(turn), None);
        for _ in 1..SILENT_CALLS {
            let (turn, _) = breaker.turn(now).unwrap();
            assert_eq!(breaker.silent(turn, now, NO_JITTER), None);
        }
    }

    #[test]
    fn when_the_pause_is_over_one_call_tries() {
        let now = Instant::now();
        let (mut breaker, _) = after_silent(SILENT_CALLS, now);
        assert_eq!(breaker.turn(now), None);
        let later = now + FIRST_PAUSE;
        let (turn, change) = breaker.turn(later).unwrap();
        assert_eq!(change, Some(Change::HalfOpened));
        assert_eq!(breaker.turn(later), None, "one, not two");
        assert_eq!(breaker.answered(turn), Some(Change::Closed));
        assert!(breaker.lets(later));
    }

    #[test]
    fn a_call_that_tries_in_vain_doubles_the_pause_up_to_a_limit() {
        let mut now = Instant::now();
        let (mut breaker, _) = after_silent(SILENT_CALLS, now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            now = breaker.until().unwrap();
            let (turn, _) = breaker.turn(now).unwrap();
            let Some(Change::Opened(pause)) = breaker.silent(turn, now, NO_JITTER) else {
                panic!()
            };
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_try_that_was_not_made_lets_another_one_try() {
        let now = Instant::now();
        let (mut breaker, _) = after_silent(SILENT_CALLS, now);
        let later = now + FIRST_PAUSE;
        let (turn, _) = breaker.turn(later).unwrap();
        breaker.given_back(turn);
        assert_eq!(breaker.turn(later).unwrap().1, None, "it is half open already");
    }

    #[test]
    fn what_began_before_the_last_change_does_not_count() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        let (straggler, _) = breaker.turn(now).unwrap();
        for _ in 0..SILENT_CALLS {
            let (turn, _) = breaker.turn(now).unwrap();
            breaker.silent(turn, now, NO_JITTER);
        }
        assert_eq!(breaker.answered(straggler), None);
        assert!(!breaker.lets(now));
        let later = now + FIRST_PAUSE;
        let (trying, _) = breaker.turn(later).unwrap();
        assert_eq!(breaker.silent(straggler, later, NO_JITTER), None);
        breaker.given_back(straggler);
        assert_eq!(breaker.turn(later), None, "the one that tries is still under way");
        assert_eq!(breaker.answered(trying), Some(Change::Closed));
    }

    proptest! {
        #[test]
        fn it_never_stays_shut_for_longer_than_its_longest_pause(
            // What becomes of each call, and how long it takes.
            calls in proptest::collection::vec((any::<Option<bool>>(), 0_u64..40, 0.0..=1.0), 1..80),
        ) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new();
            for (answered, seconds, jitter) in calls {
                if let Some(until) = breaker.until() {
                    let longest = LONGEST_PAUSE.mul_f64(1.0 + JITTER);
                    prop_assert!(until <= now + longest);
                    now = now.max(until);
                }
                let (turn, _) = breaker.turn(now).expect("nothing else is under way");
                now += Duration::from_secs(seconds);
                match answered {
                    Some(true) => { breaker.answered(turn); prop_assert!(breaker.lets(now)); }
                    Some(false) => { breaker.silent(turn, now, jitter); }
                    None => {}
                }
                breaker.given_back(turn);
            }
        }
    }
}

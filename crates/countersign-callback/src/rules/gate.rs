//! Whether a replica may call an upstream just now, and why not.
//!
//! Three things pause an upstream: its circuit is open, it has been asked for as many resends as its
//! rate limit or the canaries allow, or enough calls of this replica are under way. While it is paused
//! its rows stay as they are: due, with nothing written and no attempt used.

use std::time::Duration;

use tokio::time::Instant;

use crate::rules::breaker::{Breaker, Change, Turn};

/// How many calls one upstream gets at once from one replica. More would not heal faster, and a
/// resend costs an upstream more than it costs this service.
pub(crate) const CALLS_AT_ONCE: usize = 64;

/// With fewer free calls than this the upstream is paused: a round that locks up to 200 rows for one
/// or two calls costs more than it heals.
const FEWEST_FREE_CALLS: usize = CALLS_AT_ONCE / 2;

/// How long after a pause the rate limit still counts as the reason why a row has waited. A limited
/// upstream is paused for 20 to 500 ms at a time and asked in between; a row that is parked in such a
/// gap has waited for the limit all the same.
const LIMIT_FELT_FOR: Duration = Duration::from_secs(2);

/// What one replica knows of whether it may call one upstream.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    circuit: Breaker,
    calls: usize,
    limited_until: Option<Instant>,
}

/// Why an upstream is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// The upstream has not answered several calls in a row.
    CircuitOpen,
    /// The upstream has been asked for as many resends as it may be just now.
    RateLimitReached,
    /// The upstream has enough calls of this replica to answer.
    EnoughCalls,
}

impl Gate {
    /// The gate of an upstream that was never called.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { circuit: Breaker::new(), calls: 0, limited_until: None }
    }

    /// Why no rows of the upstream are looked at, if it is paused.
    #[must_use]
    pub(crate) fn paused(&self, now: Instant) -> Option<Pause> {
        if !self.circuit.lets(now) {
            Some(Pause::CircuitOpen)
        } else if self.limited_until.is_some_and(|until| until > now) {
            Some(Pause::RateLimitReached)
        } else if CALLS_AT_ONCE - self.calls < FEWEST_FREE_CALLS {
            Some(Pause::EnoughCalls)
        } else {
            None
        }
    }

    /// Why the rows of the upstream have had to wait lately, for the reason of a row that is parked.
    #[must_use]
    pub(crate) fn paused_lately(&self, now: Instant) -> Option<Pause> {
        if !self.circuit.is_closed() {
            Some(Pause::CircuitOpen)
        } else if self.limited_until.is_some_and(|until| until + LIMIT_FELT_FOR > now) {
            Some(Pause::RateLimitReached)
        } else {
            None
        }
    }

    /// When a pause ends whose end is known.
    #[must_use]
    pub(crate) fn reopens(&self, now: Instant) -> Option<Instant> {
        let ends = [self.circuit.until(), self.limited_until];
        ends.into_iter().flatten().filter(|end| *end > now).min()
    }

    /// The right to one call; `None` if none may be made. The rate limit is not asked: it decides for
    /// all replicas together, in the ledger.
    pub(crate) fn enter(&mut self, now: Instant) -> Option<(Turn, Option<Change>)> {
        if self.calls >= CALLS_AT_ONCE {
            return None;
        }
        let entered = self.circuit.turn(now)?;
        self.calls += 1;
        Some(entered)
    }

    /// The call is over, or was not made.
    pub(crate) fn leave(&mut self, turn: Turn) {
        self.calls = self.calls.saturating_sub(1);
        self.circuit.given_back(turn);
    }

    /// The upstream answered the call, whatever it said.
    pub(crate) fn answered(&mut self, turn: Turn) -> Option<Change> {
        self.circuit.answered(turn)
    }

    /// The upstream did not answer the call. `jitter` is a random number from 0 to 1.
    pub(crate) fn silent(&mut self, turn: Turn, now: Instant, jitter: f64) -> Option<Change> {
        self.circuit.silent(turn, now, jitter)
    }

    /// The upstream has been asked for as many resends as it may be until then.
    pub(crate) fn limit(&mut self, until: Instant) {
        self.limited_until = Some(until);
    }

    /// The upstream may be asked for some more at once: resends it was asked for were not needed.
    pub(crate) fn lift_limit(&mut self) {
        self.limited_until = None;
    }

    /// The circuit, for a person.
    #[must_use]
    pub(crate) fn circuit(&self) -> &Breaker {
        &self.circuit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_JITTER: f64 = 0.0;

    #[test]
    fn a_gate_is_paused_while_half_of_the_calls_are_under_way() {
        let now = Instant::now();
        let mut gate = Gate::new();
        let mut turns = Vec::new();
        while let Some((turn, _)) = gate.enter(now) {
            turns.push(turn);
            let enough = (turns.len() > CALLS_AT_ONCE / 2).then_some(Pause::EnoughCalls);
            assert_eq!(gate.paused(now), enough, "{} calls", turns.len());
        }
        assert_eq!(turns.len(), CALLS_AT_ONCE);
        assert_eq!((gate.paused_lately(now), gate.reopens(now)), (None, None));
        turns.into_iter().for_each(|turn| gate.leave(turn));
        assert_eq!(gate.paused(now), None);
        assert!(gate.enter(now).is_some());
    }

    #[test]
    fn a_reached_limit_pauses_the_gate_and_is_felt_for_a_while_after() {
        let now = Instant::now();
        let until = now + Duration::from_millis(500);
        let mut gate = Gate::new();
        gate.limit(until);
        assert_eq!(
            (gate.paused(now), gate.reopens(now)),
            (Some(Pause::RateLimitReached), Some(until))
        );
        assert!(gate.enter(now).is_some(), "the ledger has decided for this call already");
        for (at, paused, lately) in
            [(until, None, Some(Pause::RateLimitReached)), (until + LIMIT_FELT_FOR, None, None)]
        {
            assert_eq!((gate.paused(at), gate.paused_lately(at)), (paused, lately));
        }
        gate.lift_limit();
        assert_eq!((gate.paused(now), gate.paused_lately(now)), (None, None));
    }

    #[test]
    fn an_open_circuit_pauses_the_gate_until_a_call_may_try() {
        let now = Instant::now();
        let mut gate = Gate::new();
        while let Some((turn, _)) = gate.enter(now) {
            gate.silent(turn, now, NO_JITTER);
            gate.leave(turn);
        }
        assert_eq!(gate.paused(now), Some(Pause::CircuitOpen));
        let until = gate.reopens(now).unwrap();
        assert_eq!(gate.paused(until), None, "one call may try");
        let (turn, _) = gate.enter(until).unwrap();
        assert_eq!(gate.paused(until), Some(Pause::CircuitOpen), "and no other one meanwhile");
        assert_eq!(gate.paused_lately(until), Some(Pause::CircuitOpen));
        gate.answered(turn);
        gate.leave(turn);
        assert_eq!((gate.paused(until), gate.paused_lately(until)), (None, None));
    }
}

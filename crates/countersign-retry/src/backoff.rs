//! The pauses between tries.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Pauses that double from 0.1 s up to 5 s, without end.
///
/// Each pause is a random share (half to all) of its step: processes that lost the same server at
/// the same moment do not come back at the same moment.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

/// Long enough that a server that restarts is not hammered, short enough that a single lost
/// connection costs nothing that a person notices.
const SHORTEST: Duration = Duration::from_millis(50);
/// Work goes on at most twice this after the server is back.
const LONGEST: Duration = Duration::from_millis(2_500);

impl Backoff {
    /// Begins with the shortest pause.
    #[must_use]
    pub fn new() -> Self {
        // backon's jitter adds up to the pause itself: these bounds are half of the real ones.
        let pauses = ExponentialBuilder::default()
            .with_min_delay(SHORTEST)
            .with_max_delay(LONGEST)
            .without_max_times()
            .with_jitter();
        Self(pauses.build())
    }

    /// How long to pause before the next try.
    pub fn next_pause(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST)
    }

    /// Begins again with the shortest pause.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_stay_there() {
        let mut backoff = Backoff::new();
        assert!(backoff.next_pause() < SHORTEST * 2);
        let pauses: Vec<_> = (0..50).map(|_| backoff.next_pause()).collect();
        assert!(pauses.iter().all(|pause| *pause <= LONGEST * 2), "{pauses:?}");
        assert!(pauses[40..].iter().all(|pause| *pause >= LONGEST), "{pauses:?}");
        backoff.reset();
        assert!(backoff.next_pause() < SHORTEST * 2);
    }

    #[test]
    fn two_of_them_do_not_wait_in_step() {
        let (mut one, mut other) = (Backoff::new(), Backoff::new());
        assert!((0..10).any(|_| one.next_pause() != other.next_pause()));
    }
}

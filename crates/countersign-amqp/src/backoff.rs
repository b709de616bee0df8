//! Waiting between tries, longer each time up to a limit, and never two processes in step.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const SHORTEST: Duration = Duration::from_millis(100);
/// Up to twice this, with the jitter.
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Backoff(ExponentialBackoff);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(
            ExponentialBuilder::default()
                .with_min_delay(SHORTEST)
                .with_max_delay(LONGEST)
                .without_max_times()
                .with_jitter()
                .build(),
        )
    }

    /// How long to wait before the next try.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST)
    }

    /// Begins again with the shortest.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit_and_stay_there() {
        let mut backoff = Backoff::new();
        assert!(backoff.next_delay() < SHORTEST * 2);
        let delays: Vec<_> = (0..50).map(|_| backoff.next_delay()).collect();
        assert!(delays.iter().all(|delay| *delay <= LONGEST * 2), "{delays:?}");
        assert!(delays[40..].iter().all(|delay| *delay >= LONGEST), "{delays:?}");
        backoff.reset();
        assert!(backoff.next_delay() < SHORTEST * 2);
    }

    #[test]
    fn two_of_them_do_not_wait_in_step() {
        let (mut one, mut other) = (Backoff::new(), Backoff::new());
        assert!((0..10).any(|_| one.next_delay() != other.next_delay()));
    }
}

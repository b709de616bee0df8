//! Growing pauses between tries at what is not the message's fault.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses that grow up to a few seconds, with jitter, without end.
#[derive(Debug)]
pub(crate) struct Backoff {
    pauses: ExponentialBackoff,
    taken: u64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(SHORTEST)
            .with_max_delay(LONGEST)
            .with_jitter()
            .without_max_times()
            .build();
        Self { pauses, taken: 0 }
    }

    /// Whether this is a moment to log why it takes so long: the first pause, then rarer and rarer.
    pub(crate) fn is_worth_a_line(&self) -> bool {
        (self.taken + 1).is_power_of_two()
    }

    /// Waits for the next pause to pass.
    pub(crate) async fn pause(&mut self) {
        self.taken += 1;
        tokio::time::sleep(self.pauses.next().unwrap_or(LONGEST)).await;
    }
}

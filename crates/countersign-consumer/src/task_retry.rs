//! How a task tries again what fails through no fault of its message.

use std::fmt::Display;
use std::time::Duration;

use countersign_retry::{Backoff, InHand, LogLimit, Pulse};

/// The retries of one task. Many tasks meet the same trouble at once, so a line is written only when it is
/// news to this task and when the limit that these tasks share admits it. From its first failure to its end,
/// the task counts as in hand for the consumer's readiness.
#[derive(Debug)]
pub(crate) struct TaskRetry<'a> {
    backoff: Backoff,
    own: LogLimit,
    shared: &'a Shared,
    in_hand: Option<InHand>,
}

/// What tasks with the same trouble share: at most one line a second, and the consumer's pulse.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limit: LogLimit,
    pulse: Pulse,
}

impl Shared {
    pub(crate) fn new(pulse: &Pulse) -> Self {
        Self { limit: LogLimit::at_most_every(Duration::from_secs(1)), pulse: pulse.clone() }
    }
}

impl<'a> TaskRetry<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self { backoff: Backoff::new(), own: LogLimit::new(), shared, in_hand: None }
    }

    /// Takes note of a failure. `true`: the caller writes a line about it.
    #[must_use = "the caller writes the line, or the failure is never seen"]
    pub(crate) fn is_news(&mut self, why: &impl Display) -> bool {
        let why = why.to_string();
        if self.in_hand.is_none() {
            self.in_hand = Some(self.shared.pulse.begin(format!("end a delivery ({why})")));
        }
        self.own.admits(&why) && self.shared.limit.admits(&why)
    }

    /// Waits for the next pause to pass.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.backoff.next_pause()).await;
    }
}

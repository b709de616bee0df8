//! How a task tries again what fails through no fault of its message.

use std::fmt::Display;
use std::time::Duration;

use countersign_retry::{Backoff, LogLimit};

/// The retries of one task. Many tasks meet the same trouble at once, so a line is written only when it is
/// news to this task and when the limit that these tasks share admits it.
#[derive(Debug)]
pub(crate) struct TaskRetry<'a> {
    backoff: Backoff,
    own: LogLimit,
    shared: &'a LogLimit,
}

/// What tasks with the same trouble share: at most one line a second.
pub(crate) const fn shared_limit() -> LogLimit {
    LogLimit::at_most_every(Duration::from_secs(1))
}

impl<'a> TaskRetry<'a> {
    pub(crate) fn new(shared: &'a LogLimit) -> Self {
        Self { backoff: Backoff::new(), own: LogLimit::new(), shared }
    }

    /// Takes note of a failure. `true`: the caller writes a line about it.
    #[must_use = "the caller writes the line, or the failure is never seen"]
    pub(crate) fn is_news(&self, why: &impl Display) -> bool {
        let why = why.to_string();
        self.own.admits(&why) && self.shared.admits(&why)
    }

    /// Waits for the next pause to pass.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.backoff.next_pause()).await;
    }
}

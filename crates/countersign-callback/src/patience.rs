//! Waiting for something that is away, and saying so.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The process has to stop, and what was being tried has not worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

/// One thing that is tried until it works: growing, jittered pauses, and log lines that do not fill
/// the log.
#[derive(Debug)]
pub(crate) struct Patience {
    what: &'static str,
    tries: u32,
    since: Option<Instant>,
}

impl Patience {
    /// For doing `what`, as the log is to call it.
    #[must_use]
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, tries: 0, since: None }
    }

    /// It did not work: waits until it is worth another try.
    ///
    /// # Errors
    /// When the process has to stop.
    pub(crate) async fn wait(
        &mut self,
        error: &(dyn Display + Sync),
        shutdown: &CancellationToken,
    ) -> Result<(), Stopped> {
        self.tries = self.tries.saturating_add(1);
        self.since.get_or_insert_with(Instant::now);
        // Tries 1, 2, 4, 8 …: somebody who looks sees it, and the log does not fill.
        if self.tries.is_power_of_two() {
            warn!(%error, tries = self.tries, "cannot {}: trying again", self.what);
        }
        let doublings = self.tries.saturating_sub(1).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        match shutdown.run_until_cancelled(tokio::time::sleep(jittered)).await {
            Some(()) => Ok(()),
            None => Err(Stopped),
        }
    }

    /// It worked.
    pub(crate) fn rewarded(&mut self) {
        if let Some(since) = self.since.take() {
            info!(
                tries = self.tries,
                after_ms = since.elapsed().as_millis(),
                "can {} again",
                self.what
            );
        }
        self.tries = 0;
    }
}

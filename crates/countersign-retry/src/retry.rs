//! One operation that is tried until it works.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::log_limit::LogLimit;
use crate::pulse::{InHand, Pulse};

/// One operation that is tried until it works: the log hears of its first failure, of an outage that
/// lasts (at growing intervals), and of its recovery.
#[derive(Debug)]
pub struct Retry {
    what: Cow<'static, str>,
    backoff: Backoff,
    limit: LogLimit,
    failures: u32,
    since: Option<Instant>,
    pulse: Option<Pulse>,
    in_hand: Option<InHand>,
}

/// The process stops, and the operation has not worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Retry {
    /// For an operation that the log calls `what`: a verb in the infinitive, since lines begin with
    /// "cannot …" and "can … again".
    #[must_use]
    pub fn new(what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            what: what.into(),
            backoff: Backoff::new(),
            limit: LogLimit::new(),
            failures: 0,
            since: None,
            pulse: None,
            in_hand: None,
        }
    }

    /// From its first failure on, the operation counts as in hand, until it works or is dropped.
    #[must_use]
    pub fn felt_by(mut self, pulse: &Pulse) -> Self {
        self.pulse = Some(pulse.clone());
        self
    }

    /// After a failure: pauses before the next try, or until `shutdown`.
    ///
    /// # Errors
    /// When the process stops before the pause is over.
    ///
    /// # Cancel safety
    /// The failure counts even if this is dropped.
    pub async fn wait(
        &mut self,
        error: &(dyn Display + Sync),
        shutdown: &CancellationToken,
    ) -> Result<(), Stopped> {
        let pause = self.failed(error);
        shutdown.run_until_cancelled(sleep(pause)).await.ok_or(Stopped)
    }

    /// After a failure: how long to pause before the next try. For a caller that does not pause by
    /// [`wait`](Self::wait).
    pub fn failed(&mut self, error: &dyn Display) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.since.get_or_insert_with(Instant::now);
        if self.in_hand.is_none() {
            self.in_hand = self.pulse.as_ref().map(|pulse| pulse.begin(self.what.clone()));
        }
        let cause = error.to_string();
        if self.limit.admits(&cause) {
            warn!(error = cause, tries = self.failures, "cannot {}: trying again", self.what);
        }
        self.backoff.next_pause()
    }

    /// After a success: the next failure is a first one.
    pub fn worked(&mut self) {
        self.in_hand = None;
        let Some(since) = self.since.take() else { return };
        let after_ms = since.elapsed().as_millis();
        info!(tries = self.failures, after_ms, "can {} again", self.what);
        self.failures = 0;
        self.backoff.reset();
        self.limit.recovered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_a_success_begins_anew() {
        let (mut retry, shutdown) = (Retry::new("look"), CancellationToken::new());
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(retry.wait(&"away", &shutdown).await, Ok(()));
        }
        assert!(began.elapsed() > Duration::from_secs(20), "{:?}", began.elapsed());
        retry.worked();
        let began = Instant::now();
        assert_eq!(retry.wait(&"away", &shutdown).await, Ok(()));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_in_hand_until_it_works() {
        let pulse = Pulse::new();
        let mut retry = Retry::new("look").felt_by(&pulse);
        let moment = Duration::ZERO;
        assert_eq!(pulse.stuck(moment), None);
        retry.failed(&"away");
        tokio::time::advance(Duration::from_secs(1)).await;
        retry.failed(&"away");
        assert_eq!(pulse.stuck(moment).as_deref(), Some("cannot look for 1 s"));
        retry.worked();
        assert_eq!(pulse.stuck(moment), None);
        retry.failed(&"away");
        drop(retry);
        assert_eq!(pulse.stuck(moment), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_ends_the_pause() {
        let (mut retry, shutdown) = (Retry::new("look"), CancellationToken::new());
        shutdown.cancel();
        let began = Instant::now();
        assert_eq!(retry.wait(&"away", &shutdown).await, Err(Stopped));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

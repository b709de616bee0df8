//! Which failures get a line in the log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets the first failure into the log, then one line at growing intervals, and nothing between.
///
/// Tasks that meet the same trouble share one. It is only asked on failure and recovery, so its lock
/// costs a healthy process nothing.
#[derive(Debug)]
pub struct LogLimit {
    shortest: Duration,
    longest: Duration,
    /// Trouble with another cause is news, unless many tasks tell of it at once.
    tells_causes_apart: bool,
    last: Mutex<Option<Line>>,
}

#[derive(Debug)]
struct Line {
    cause: String,
    written: Instant,
    interval: Duration,
}

/// An operator who has just begun to look sees a line soon.
const SHORTEST: Duration = Duration::from_secs(2);
/// One line a minute shows that the trouble goes on, and an hour of it is still read at a glance.
const LONGEST: Duration = Duration::from_secs(60);

impl LogLimit {
    /// For one task: intervals grow from 2 s to 60 s, and another cause is logged at once.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            shortest: SHORTEST,
            longest: LONGEST,
            tells_causes_apart: true,
            last: Mutex::new(None),
        }
    }

    /// For trouble that many tasks meet at once: one line in each interval, whatever the cause.
    #[must_use]
    pub const fn at_most_every(interval: Duration) -> Self {
        Self {
            shortest: interval,
            longest: interval,
            tells_causes_apart: false,
            last: Mutex::new(None),
        }
    }

    /// Takes note of a failure. `true`: the caller writes its line now.
    #[must_use = "the caller writes the line, or the failure is never seen"]
    pub fn admits(&self, cause: &str) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = match &*last {
            None => self.shortest,
            Some(line) if self.tells_causes_apart && line.cause != cause => self.shortest,
            Some(line) if now.duration_since(line.written) >= line.interval => {
                (line.interval * 2).min(self.longest)
            }
            Some(_) => return false,
        };
        *last = Some(Line { cause: cause.to_owned(), written: now, interval });
        true
    }

    /// Takes note that it works again: the next failure is a first one. `true`: a line about the
    /// trouble was written, so the caller writes one about its end.
    pub fn recovered(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_logged_at_growing_intervals() {
        let limit = LogLimit::new();
        let mut logged = Vec::new();
        for second in 0..300 {
            if limit.admits("refused") {
                logged.push(second);
            }
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(logged, [0, 2, 6, 14, 30, 62, 122, 182, 242]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_cause_is_logged_at_once() {
        let limit = LogLimit::new();
        assert!(limit.admits("refused"));
        assert!(!limit.admits("refused"));
        assert!(limit.admits("no such host"));
        assert!(limit.recovered());
        assert!(!limit.recovered());
        assert!(limit.admits("no such host"));
    }

    #[tokio::test(start_paused = true)]
    async fn many_tasks_in_trouble_are_one_line_in_each_interval() {
        let limit = LogLimit::at_most_every(SECOND);
        let lines = || (0..100).filter(|task| limit.admits(&format!("task {task}"))).count();
        assert_eq!(lines(), 1);
        tokio::time::advance(SECOND).await;
        assert_eq!(lines(), 1);
        tokio::time::advance(SECOND).await;
        assert_eq!(lines(), 1);
    }
}

//! Saying in the log that something is in the way, when it is in the way of many messages at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One line is enough for what many messages suffer from at the same time.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// One kind of trouble of one consumer.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<Option<Instant>>);

impl Complaints {
    /// Whether it is time for a line; the caller then writes it.
    pub(crate) fn are_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= AT_MOST_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_messages_in_trouble_are_one_line_a_second() {
        let complaints = Complaints::default();
        let lines = |count| (0..count).filter(|_| complaints.are_due()).count();
        assert_eq!(lines(100), 1);
        tokio::time::advance(AT_MOST_EVERY).await;
        assert_eq!(lines(100), 1);
    }
}

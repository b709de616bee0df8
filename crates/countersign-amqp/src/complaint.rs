//! Saying what is wrong often enough to be noticed, and not so often that it hides the rest.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// One thing that is wrong, repeated at growing intervals as long as it is.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    last: Option<(String, Instant, Duration)>,
}

impl Complaint {
    /// Whether to say it now: it is new, or was not said for a while.
    pub(crate) fn is_due(&mut self, now: Instant, why: &str) -> bool {
        let pause = match &self.last {
            Some((said, ..)) if said != why => FIRST_PAUSE,
            None => FIRST_PAUSE,
            Some((_, at, pause)) if now.duration_since(*at) >= *pause => {
                (*pause * 2).min(LONGEST_PAUSE)
            }
            Some(_) => return false,
        };
        self.last = Some((why.to_owned(), now, pause));
        true
    }

    /// It is over; the next is new. Whether there was anything.
    pub(crate) fn settled(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_at_growing_intervals() {
        let start = Instant::now();
        let mut complaint = Complaint::default();
        let said: Vec<u64> = (0..300)
            .filter(|s| complaint.is_due(start + Duration::from_secs(*s), "refused"))
            .collect();
        assert_eq!(said, [0, 2, 6, 14, 30, 62, 122, 182, 242]);
    }

    #[test]
    fn what_is_new_is_said_at_once() {
        let now = Instant::now();
        let mut complaint = Complaint::default();
        assert!(complaint.is_due(now, "refused"));
        assert!(!complaint.is_due(now, "refused"));
        assert!(complaint.is_due(now, "no such host"));
        assert!(complaint.settled());
        assert!(complaint.is_due(now, "no such host"));
    }
}

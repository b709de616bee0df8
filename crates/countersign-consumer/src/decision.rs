//! What becomes of a delivery: decided here from plain values, done elsewhere.

use std::time::Duration;

use countersign_protocol::envelope::clean_reason;
use countersign_protocol::{MessageId, OutsideWindow, Window};

use crate::failure::Failure;

/// How one try at a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Effect and inbox row are committed.
    Committed,
    /// It took effect before; nothing was run.
    Duplicate,
    /// The handler said no, and its transaction is rolled back.
    Failed(Failure),
    /// The handler panicked, and its transaction is rolled back.
    Panicked(String),
    /// The handler was given up after this long, while the database was well.
    TimedOut(Duration),
    /// The handler was content, but the database would not commit.
    NotCommitted(Failure),
    /// The database could not be asked, or did not say whether it committed. The inbox will tell.
    DatabaseAway(String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Confirm it as processed, then ack.
    Confirm,
    /// Hold it, wait a little and try again from the claim. No attempt is used.
    Again {
        /// What is in the way.
        why: String,
        /// How many interruptions there have been in a row.
        interruptions: u32,
    },
    /// Put a copy into the delay queue, confirm it as retrying, then ack.
    Retry {
        /// How long it waits.
        delay: Duration,
        /// How often it has failed by now.
        failures: u32,
        /// What failed.
        reason: String,
    },
    /// Put a copy into the `.dead` queue, confirm it as rejected, then ack.
    Dead {
        /// Why, for a person.
        reason: String,
    },
}

/// How patient a consumer is with a message.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// How long to wait after the first failure, the second, and so on; after the last it is over.
    pub(crate) retry_delays: Vec<Duration>,
}

/// A delivery that nobody can process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// Its id, if it has one to confirm.
    pub(crate) id: Option<MessageId>,
    /// What is wrong, for a person.
    pub(crate) reason: String,
}

/// How often in a row the database may interrupt a handler before that counts as a failure.
const MAX_INTERRUPTIONS: u32 = 5;

/// The id of a delivery, if the inbox has a place for it.
pub(crate) fn admit(message_id: Option<&str>, window: Window) -> Result<MessageId, Unfit> {
    let unfit = |id, reason| Unfit { id, reason };
    let Some(text) = message_id else {
        return Err(unfit(None, "message_id: the delivery has none".to_owned()));
    };
    let id: MessageId = text.parse().map_err(|e| {
        let shown: String = text.chars().take(64).collect();
        unfit(None, clean_reason(&format!("message_id: {shown:?}: {e}")))
    })?;
    let reason = match window.admit(id) {
        Ok(()) => return Ok(id),
        Err(OutsideWindow::TooOld) => format!(
            "too old to know: the id is of {} ms since 1970, and the inbox remembers from {} on",
            id.time(),
            window.oldest
        ),
        Err(OutsideWindow::Ahead) => format!(
            "from the future: the id is of {} ms since 1970, and the inbox has places up to {}; is the sender's clock right?",
            id.time(),
            window.newest
        ),
    };
    Err(unfit(Some(id), reason))
}

/// What to do after a try at a delivery that had failed `failures` times before, and whose last
/// `interruptions` tries were interrupted.
pub(crate) fn next(ended: Ended, failures: u32, interruptions: u32, policy: &Policy) -> Next {
    match ended {
        Ended::Committed | Ended::Duplicate => Next::Confirm,
        Ended::DatabaseAway(why) => Next::Again { why, interruptions },
        Ended::Failed(failure) | Ended::NotCommitted(failure) => match failure {
            Failure::Reject(reason) => Next::Dead { reason: clean_reason(&reason) },
            Failure::Interrupted(why) if interruptions < MAX_INTERRUPTIONS => {
                Next::Again { why, interruptions: interruptions + 1 }
            }
            Failure::Interrupted(reason) | Failure::Retry(reason) => {
                after_failure(&reason, failures, policy)
            }
        },
        Ended::Panicked(what) => {
            after_failure(&format!("the handler panicked: {what}"), failures, policy)
        }
        Ended::TimedOut(limit) => {
            let reason = format!("the handler did not finish within {} ms", limit.as_millis());
            after_failure(&reason, failures, policy)
        }
    }
}

fn after_failure(reason: &str, failures: u32, policy: &Policy) -> Next {
    let before = usize::try_from(failures).unwrap_or(usize::MAX);
    let failures = failures.saturating_add(1);
    match policy.retry_delays.get(before) {
        Some(&delay) => Next::Retry { delay, failures, reason: clean_reason(reason) },
        None => {
            let reason = format!("failed {failures} times, the last time: {reason}");
            Next::Dead { reason: clean_reason(&reason) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_protocol::UnixMillis;

    const FIRST: Duration = Duration::from_secs(1);
    const SECOND: Duration = Duration::from_secs(10);

    fn policy() -> Policy {
        Policy { retry_delays: vec![FIRST, SECOND] }
    }

    fn retry(delay: Duration, failures: u32, reason: &str) -> Next {
        Next::Retry { delay, failures, reason: reason.to_owned() }
    }

    fn dead(reason: &str) -> Next {
        Next::Dead { reason: reason.to_owned() }
    }

    fn again(why: &str, interruptions: u32) -> Next {
        Next::Again { why: why.to_owned(), interruptions }
    }

    #[test]
    fn each_end_of_a_try_has_its_consequence() {
        let failed = |failure| Ended::Failed(failure);
        let flop = || Failure::Retry("flop".into());
        let deadlock = || Failure::Interrupted("deadlock".into());
        let table = [
            // (how it ended, failures before, interruptions before, what follows)
            (Ended::Committed, 0, 0, Next::Confirm),
            (Ended::Committed, 2, 5, Next::Confirm),
            (Ended::Duplicate, 0, 0, Next::Confirm),
            (failed(flop()), 0, 0, retry(FIRST, 1, "flop")),
            (failed(flop()), 1, 0, retry(SECOND, 2, "flop")),
            (failed(flop()), 2, 0, dead("failed 3 times, the last time: flop")),
            (failed(flop()), 7, 0, dead("failed 8 times, the last time: flop")),
            (failed(flop()), u32::MAX, 0, dead("failed 4294967295 times, the last time: flop")),
            (failed(Failure::Reject("no".into())), 0, 0, dead("no")),
            (failed(Failure::Reject("no".into())), 2, 5, dead("no")),
            (failed(deadlock()), 0, 0, again("deadlock", 1)),
            (failed(deadlock()), 2, 4, again("deadlock", 5)),
            (failed(deadlock()), 0, 5, retry(FIRST, 1, "deadlock")),
            (failed(deadlock()), 2, 5, dead("failed 3 times, the last time: deadlock")),
            (Ended::NotCommitted(flop()), 0, 0, retry(FIRST, 1, "flop")),
            (Ended::NotCommitted(deadlock()), 0, 0, again("deadlock", 1)),
            (Ended::Panicked("ouch".into()), 0, 0, retry(FIRST, 1, "the handler panicked: ouch")),
            (
                Ended::Panicked("ouch".into()),
                2,
                0,
                dead("failed 3 times, the last time: the handler panicked: ouch"),
            ),
            (
                Ended::TimedOut(SECOND),
                0,
                0,
                retry(FIRST, 1, "the handler did not finish within 10000 ms"),
            ),
            // However long the database is away, no attempt is used and no interruption counted.
            (Ended::DatabaseAway("gone".into()), 0, 0, again("gone", 0)),
            (Ended::DatabaseAway("gone".into()), 2, 5, again("gone", 5)),
        ];
        for (ended, failures, interruptions, expected) in table {
            let got = next(ended.clone(), failures, interruptions, &policy());
            assert_eq!(got, expected, "{ended:?} after {failures} and {interruptions}");
        }
    }

    #[test]
    fn without_retry_delays_the_first_failure_is_the_last() {
        let policy = Policy { retry_delays: Vec::new() };
        let got = next(Ended::Failed(Failure::Retry("flop".into())), 0, 0, &policy);
        assert_eq!(got, dead("failed 1 times, the last time: flop"));
    }

    #[test]
    fn reasons_can_be_stored_and_shown() {
        let long = format!("nul \0 and {}", "long ".repeat(1_000));
        let Next::Dead { reason } = next(Ended::Failed(Failure::Reject(long)), 0, 0, &policy())
        else {
            panic!("a rejection is final")
        };
        assert!(!reason.contains('\0'));
        assert_eq!(reason.chars().count(), 1_000);
    }

    fn at(ms: i64) -> MessageId {
        MessageId::from_parts(UnixMillis::from_ms(ms), [7; 10])
    }

    const WINDOW: Window =
        Window { oldest: UnixMillis::from_ms(1_000), newest: UnixMillis::from_ms(1_999) };

    #[test]
    fn an_id_is_admitted_where_the_inbox_has_a_partition_for_it() {
        for ms in [1_000, 1_001, 1_999] {
            assert_eq!(admit(Some(&at(ms).to_string()), WINDOW), Ok(at(ms)), "{ms}");
        }
    }

    #[test]
    fn an_id_outside_of_the_inbox_is_unfit_and_can_still_be_confirmed() {
        for (ms, reason) in
            [(999, "too old to know"), (0, "too old to know"), (2_000, "from the future")]
        {
            let unfit = admit(Some(&at(ms).to_string()), WINDOW).unwrap_err();
            assert_eq!(unfit.id, Some(at(ms)));
            assert!(unfit.reason.starts_with(reason), "{ms}: {}", unfit.reason);
        }
    }

    #[test]
    fn what_is_no_id_is_unfit_and_cannot_be_confirmed() {
        let version4 = "6f1c8a52-5a4e-4c9f-9d2e-0b8f7f0f3a11";
        for text in [None, Some(""), Some("17"), Some(version4), Some("\0\0")] {
            let unfit = admit(text, WINDOW).unwrap_err();
            assert_eq!(unfit.id, None, "{text:?}");
            assert!(unfit.reason.starts_with("message_id: "), "{}", unfit.reason);
        }
    }
}

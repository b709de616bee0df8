//! The retry policy: what follows from how a try at a delivery ended. Pure; the worker carries it out.

use std::time::Duration;

use countersign_protocol::envelope::clean_reason;

use crate::failure::Failure;

/// How one try at a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TryEnd {
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

/// How often, and after which delays, a message is tried again.
#[derive(Clone, Debug)]
pub(crate) struct RetryPolicy {
    /// How long to wait after the first failure, the second, and so on; after the last it is over.
    pub(crate) retry_delays: Vec<Duration>,
}

/// How often in a row the database may interrupt a handler before that counts as a failure. A deadlock is over
/// after one or two more tries; a message that brings one about every time must not be tried for ever.
const MAX_INTERRUPTIONS: u32 = 5;

/// What to do after a try at a delivery that had failed `failures` times before, and whose last
/// `interruptions` tries were interrupted.
pub(crate) fn after_try(
    end: TryEnd,
    failures: u32,
    interruptions: u32,
    policy: &RetryPolicy,
) -> Next {
    match end {
        TryEnd::Committed | TryEnd::Duplicate => Next::Confirm,
        TryEnd::DatabaseAway(why) => Next::Again { why, interruptions },
        TryEnd::Failed(failure) | TryEnd::NotCommitted(failure) => match failure {
            Failure::Reject(reason) => Next::Dead { reason: clean_reason(&reason) },
            Failure::Interrupted(why) if interruptions < MAX_INTERRUPTIONS => {
                Next::Again { why, interruptions: interruptions + 1 }
            }
            Failure::Interrupted(reason) | Failure::Retry(reason) => {
                after_failure(&reason, failures, policy)
            }
        },
        TryEnd::Panicked(what) => {
            after_failure(&format!("the handler panicked: {what}"), failures, policy)
        }
        TryEnd::TimedOut(limit) => {
            let reason = format!("the handler did not finish within {} ms", limit.as_millis());
            after_failure(&reason, failures, policy)
        }
    }
}

fn after_failure(reason: &str, failures: u32, policy: &RetryPolicy) -> Next {
    let before = usize::try_from(failures).unwrap_or(usize::MAX);
    let failures = failures.saturating_add(1);
    match policy.retry_delays.get(before) {
        Some(&delay) => Next::Retry { delay, failures, reason: clean_reason(reason) },
        None => {
            let reason = match failures {
                1 => format!("failed once: {reason}"),
                _ => format!("failed {failures} times, the last time: {reason}"),
            };
            Next::Dead { reason: clean_reason(&reason) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const SECOND: Duration = Duration::from_secs(10);

    fn policy() -> RetryPolicy {
        RetryPolicy { retry_delays: vec![FIRST, SECOND] }
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
        let failed = |failure| TryEnd::Failed(failure);
        let flop = || Failure::Retry("flop".into());
        let deadlock = || Failure::Interrupted("deadlock".into());
        let table = [
            // (how it ended, failures before, interruptions before, what follows)
            (TryEnd::Committed, 0, 0, Next::Confirm),
            (TryEnd::Committed, 2, 5, Next::Confirm),
            (TryEnd::Duplicate, 0, 0, Next::Confirm),
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
            (TryEnd::NotCommitted(flop()), 0, 0, retry(FIRST, 1, "flop")),
            (TryEnd::NotCommitted(deadlock()), 0, 0, again("deadlock", 1)),
            (TryEnd::Panicked("ouch".into()), 0, 0, retry(FIRST, 1, "the handler panicked: ouch")),
            (
                TryEnd::Panicked("ouch".into()),
                2,
                0,
                dead("failed 3 times, the last time: the handler panicked: ouch"),
            ),
            (
                TryEnd::TimedOut(SECOND),
                0,
                0,
                retry(FIRST, 1, "the handler did not finish within 10000 ms"),
            ),
            // However long the database is away, no attempt is used and no interruption counted.
            (TryEnd::DatabaseAway("gone".into()), 0, 0, again("gone", 0)),
            (TryEnd::DatabaseAway("gone".into()), 2, 5, again("gone", 5)),
        ];
        for (ended, failures, interruptions, expected) in table {
            let got = after_try(ended.clone(), failures, interruptions, &policy());
            assert_eq!(got, expected, "{ended:?} after {failures} and {interruptions}");
        }
    }

    #[test]
    fn without_retry_delays_the_first_failure_is_the_last() {
        let policy = RetryPolicy { retry_delays: Vec::new() };
        let got = after_try(TryEnd::Failed(Failure::Retry("flop".into())), 0, 0, &policy);
        assert_eq!(got, dead("failed once: flop"));
    }

    #[test]
    fn reasons_can_be_stored_and_shown() {
        let long = format!("nul \0 and {}", "long ".repeat(1_000));
        let Next::Dead { reason } =
            after_try(TryEnd::Failed(Failure::Reject(long)), 0, 0, &policy())
        else {
            panic!("a rejection is final")
        };
        assert!(!reason.contains('\0'));
        assert_eq!(reason.chars().count(), 1_000);
    }
}

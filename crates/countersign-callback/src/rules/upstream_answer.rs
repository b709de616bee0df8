//! What an upstream's answer, or the lack of one, means for the row it was asked about.

use std::time::Duration;

use countersign_protocol::UnixMillis;

use crate::rules::overdue::{Cause, Change, Closed, Overdue, Policy, Recorded, State, To};

/// What came of asking an upstream to send a message again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was sent again.
    Republished {
        /// When, on its upstream's clock, if it says.
        at: Option<UnixMillis>,
    },
    /// Its transaction did not commit and never will.
    NeverCommitted,
    /// Its transaction may still commit.
    InProgress {
        /// How long the upstream would have us wait; zero if it does not say.
        retry_after: Duration,
    },
    /// The upstream no longer wants it sent.
    Withdrawn {
        /// What the upstream says.
        reason: String,
    },
    /// Nothing was sent, though the upstream has it.
    NotPublished {
        /// What the upstream says.
        reason: String,
    },
    /// The upstream cannot tell.
    Unknown {
        /// What the upstream says.
        reason: String,
    },
    /// The call surely did not happen, or was refused before it did anything.
    NotAsked {
        /// What failed.
        why: String,
    },
    /// Nobody knows whether it was sent again.
    Unanswered {
        /// What happened instead of an answer.
        why: String,
    },
}

impl Answer {
    /// Whether the message had not arrived, as far as the upstream can tell. `None` if it does not
    /// say.
    #[must_use]
    pub(crate) fn says_missing(&self) -> Option<bool> {
        match self {
            Self::Republished { .. } | Self::Unknown { .. } => Some(true),
            Self::NeverCommitted | Self::InProgress { .. } | Self::Withdrawn { .. } => Some(false),
            Self::NotPublished { .. } | Self::NotAsked { .. } | Self::Unanswered { .. } => None,
        }
    }

    /// Whether the message may have been sent again.
    #[must_use]
    pub(crate) fn may_have_sent(&self) -> bool {
        matches!(self, Self::Republished { .. } | Self::Unanswered { .. })
    }
}

/// The longest wait after a resend, however often the delay has doubled.
pub(crate) const LONGEST_RESEND_DELAY: Duration = Duration::from_secs(60 * 60);

/// The longest wait after a call that did not happen. Shorter than after a resend: nobody has been
/// burdened, and when the upstream is back its messages should not wait long.
pub(crate) const LONGEST_RETURN_DELAY: Duration = Duration::from_secs(5 * 60);

/// The shortest wait when an upstream says "in progress" without saying for how long.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// By how much a wait is lengthened at most, so that what failed together is not asked for together.
const JITTER: f64 = 0.25;

/// What becomes of a row when its answer is in, at `now` on the database's clock.
///
/// `None` if the answer changes nothing: the row has been closed or parked in the meantime.
/// `jitter` is a random number from 0 to 1.
#[must_use]
pub(crate) fn hear(
    overdue: &Overdue,
    recorded: &Recorded,
    answer: &Answer,
    policy: &Policy,
    now: UnixMillis,
    jitter: f64,
) -> Option<Change> {
    if *answer == Answer::NeverCommitted && !recorded.confirmed.is_empty() {
        let known = matches!(overdue.state, State::Asking | State::Confirmed);
        return known.then(|| overdue.contradicted(&recorded.confirmed));
    }
    if overdue.state != State::Asking {
        return None;
    }
    if overdue.missing(recorded).is_empty() {
        return Some(overdue.settled());
    }
    let upstream = &overdue.key.upstream;
    let close = |closed, cause, reason| overdue.change(To::Closed(closed), cause, reason);
    // Not beyond the time of giving up; but what was sent again gets its time.
    let wait = |delay, at_least| To::Waiting {
        due: now.after(delay).min(overdue.gives_up(policy).max(now.after(at_least))),
    };
    let used = |cause, reason| Change {
        returned: 0,
        ..overdue.change(
            wait(used_delay(overdue, policy, jitter), policy.resend_delay),
            cause,
            reason,
        )
    };
    let returned = |delay, cause, reason| Change {
        resends: overdue.resends.saturating_sub(1),
        returned: overdue.returned.saturating_add(1),
        ..overdue.change(wait(delay, SHORTEST_WAIT), cause, reason)
    };
    let change = match answer {
        Answer::NeverCommitted => {
            return Some(close(
                Closed::NeverCommitted,
                Cause::NeverCommitted,
                format!("{upstream} says that its transaction never committed"),
            ));
        }
        Answer::Withdrawn { reason } => {
            return Some(close(
                Closed::Withdrawn,
                Cause::Withdrawn,
                format!("withdrawn by {upstream}: {reason}"),
            ));
        }
        Answer::Unknown { reason } => overdue.change(
            To::Parked,
            Cause::UnknownToUpstream,
            format!("{upstream} cannot tell: {reason}"),
        ),
        Answer::Republished { .. } => used(
            Cause::Republished,
            format!("sent again by {upstream} as attempt {}", overdue.resends.saturating_add(1)),
        ),
        Answer::Unanswered { why } => {
            used(Cause::Unanswered, format!("no answer from {upstream}: {why}"))
        }
        Answer::InProgress { retry_after } => returned(
            jittered((*retry_after).clamp(SHORTEST_WAIT, LONGEST_RETURN_DELAY), jitter),
            Cause::InProgress,
            format!("{upstream} says that its transaction may still commit"),
        ),
        Answer::NotPublished { reason } => returned(
            returned_delay(overdue, policy, jitter),
            Cause::NotPublished,
            format!("{upstream} could not send it: {reason}"),
        ),
        Answer::NotAsked { why } => returned(
            returned_delay(overdue, policy, jitter),
            Cause::UpstreamAway,
            format!("{upstream} could not be asked: {why}"),
        ),
    };
    let change = Change {
        missing_after: change.to.due().map(|due| match answer {
            // Nothing new is under way.
            Answer::NotAsked { .. } | Answer::NotPublished { .. } => now,
            _ => due,
        }),
        sent_at: match answer {
            Answer::Republished { at } => *at,
            _ => None,
        },
        ..change
    };
    // An open row that somebody has rejected waits for a person, whatever else would be tried.
    Some(match overdue.rejection(recorded) {
        Some(rejection) => {
            Change { to: To::Parked, cause: Cause::Rejected, reason: rejection, ..change }
        }
        None => change,
    })
}

fn used_delay(overdue: &Overdue, policy: &Policy, jitter: f64) -> Duration {
    let doublings = overdue.resends.saturating_sub(1);
    jittered(doubled(policy.resend_delay, doublings, LONGEST_RESEND_DELAY), jitter)
}

fn returned_delay(overdue: &Overdue, policy: &Policy, jitter: f64) -> Duration {
    jittered(doubled(policy.resend_delay, overdue.returned, LONGEST_RETURN_DELAY), jitter)
}

/// `delay`, doubled this often, but not over `longest` unless it began there.
fn doubled(delay: Duration, doublings: u32, longest: Duration) -> Duration {
    let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
    delay.saturating_mul(factor).min(longest.max(delay))
}

fn jittered(delay: Duration, jitter: f64) -> Duration {
    delay.saturating_add(delay.mul_f64(JITTER * jitter.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use countersign_protocol::{MessageId, Name};
    use proptest::prelude::*;

    use super::*;
    use crate::rules::overdue::{Key, Report, Word};

    const NOW: i64 = 1_795_231_234_567;
    const POLICY: Policy = Policy {
        max_resends: 3,
        resend_delay: Duration::from_secs(30),
        park_after: Duration::from_secs(24 * 60 * 60),
        backlog_patience: Duration::from_secs(10),
        management_lag: Duration::from_secs(12),
    };

    fn now() -> UnixMillis {
        UnixMillis::from_ms(NOW)
    }

    fn name(name: &str) -> Name {
        name.parse().unwrap()
    }

    fn asking(resends: u32, returned: u32) -> Overdue {
        Overdue {
            key: Key {
                message_id: MessageId::from_parts(now(), [0; 10]),
                upstream: name("orders"),
            },
            consumers: vec![name("logistics")],
            state: State::Asking,
            reason: "not confirmed by logistics".to_owned(),
            resends,
            returned,
            granted: 0,
            granted_at: None,
            since: now(),
            missing_after: now(),
            sent_at: None,
            lease: None,
        }
    }

    fn confirmed(by: &str) -> Recorded {
        Recorded { confirmed: vec![name(by)], ..Recorded::default() }
    }

    fn rejected() -> Recorded {
        let report = Report {
            consumer: name("logistics"),
            word: Word::Rejected,
            reason: "no such article".to_owned(),
        };
        Recorded { reports: vec![report], ..Recorded::default() }
    }

    fn answers() -> [(Answer, bool); 8] {
        let text = || "so it says".to_owned();
        [
            (Answer::Republished { at: None }, true),
            (Answer::Unanswered { why: text() }, true),
            (Answer::InProgress { retry_after: Duration::from_secs(7) }, false),
            (Answer::NotPublished { reason: text() }, false),
            (Answer::NotAsked { why: text() }, false),
            (Answer::NeverCommitted, true),
            (Answer::Withdrawn { reason: text() }, true),
            (Answer::Unknown { reason: text() }, true),
        ]
    }

    fn heard(overdue: &Overdue, recorded: &Recorded, answer: &Answer) -> Option<Change> {
        hear(overdue, recorded, answer, &POLICY, now(), 0.0)
    }

    #[test]
    fn only_what_may_have_happened_uses_up_an_attempt() {
        for (answer, used) in answers() {
            let change = heard(&asking(2, 0), &Recorded::default(), &answer).unwrap();
            let expected = if used { (2, 0) } else { (1, 1) };
            assert_eq!((change.resends, change.returned), expected, "{answer:?}");
        }
        let again =
            heard(&asking(2, 5), &Recorded::default(), &Answer::Republished { at: None }).unwrap();
        assert_eq!(again.returned, 0, "what was returned in a row begins anew");
    }

    #[test]
    fn each_answer_leads_somewhere() {
        let waits = |seconds: i64| To::Waiting { due: UnixMillis::from_ms(NOW + seconds * 1_000) };
        let expected = [
            waits(30),
            waits(30),
            waits(7),
            waits(30),
            waits(30),
            To::Closed(Closed::NeverCommitted),
            To::Closed(Closed::Withdrawn),
            To::Parked,
        ];
        for ((answer, _), expected) in answers().iter().zip(expected) {
            let change = heard(&asking(1, 0), &Recorded::default(), answer).unwrap();
            assert_eq!(change.to, expected, "{answer:?}");
            assert!(change.reason.contains("orders"), "{}", change.reason);
        }
    }

    #[test]
    fn waits_double_up_to_their_limits() {
        let wait = |resends: u32, returned: u32, answer: &Answer| {
            let change = heard(&asking(resends, returned), &Recorded::default(), answer).unwrap();
            change.to.due().unwrap().since(now()).as_secs()
        };
        let resends =
            [1, 2, 3, 4, 20].map(|resends| wait(resends, 0, &Answer::Republished { at: None }));
        assert_eq!(resends, [30, 60, 120, 240, 3_600]);
        let not_asked = Answer::NotAsked { why: String::new() };
        let returned = [0, 1, 2, 3, 4, 99].map(|returned| wait(1, returned, &not_asked));
        assert_eq!(returned, [30, 60, 120, 240, 300, 300]);
    }

    #[test]
    fn what_an_upstream_says_of_its_patience_is_kept_within_bounds() {
        for (said_ms, waited_ms) in [(0, 1_000), (1_500, 1_500), (u64::MAX, 300_000)] {
            let answer = Answer::InProgress { retry_after: Duration::from_millis(said_ms) };
            let change = heard(&asking(1, 0), &Recorded::default(), &answer).unwrap();
            assert_eq!(change.to.due().unwrap().ms() - NOW, waited_ms);
        }
    }

    #[test]
    fn a_confirm_beats_every_answer_but_contradicts_never_committed() {
        for (answer, _) in answers() {
            let change = heard(&asking(1, 0), &confirmed("logistics"), &answer).unwrap();
            let expected = match answer {
                Answer::NeverCommitted => Closed::Conflict,
                _ => Closed::Confirmed,
            };
            assert_eq!(change.to, To::Closed(expected), "{answer:?}");
        }
        let by_another = heard(&asking(1, 0), &confirmed("audit"), &Answer::NeverCommitted);
        assert_eq!(by_another.unwrap().to, To::Closed(Closed::Conflict));
    }

    #[test]
    fn a_rejection_parks_what_would_wait() {
        for (answer, _) in answers() {
            let change = heard(&asking(1, 0), &rejected(), &answer).unwrap();
            let expected = match answer {
                Answer::NeverCommitted => To::Closed(Closed::NeverCommitted),
                Answer::Withdrawn { .. } => To::Closed(Closed::Withdrawn),
                _ => To::Parked,
            };
            assert_eq!(change.to, expected, "{answer:?}");
        }
    }

    #[test]
    fn a_row_that_is_not_asked_for_any_more_hears_only_a_contradiction() {
        for state in [
            State::Waiting,
            State::Parked,
            State::Confirmed,
            State::NeverCommitted,
            State::Withdrawn,
            State::Conflict,
            State::ClosedByHand,
        ] {
            for (answer, _) in answers() {
                let row = Overdue { state, ..asking(1, 0) };
                let change = heard(&row, &confirmed("logistics"), &answer);
                let contradicted = state == State::Confirmed && answer == Answer::NeverCommitted;
                assert_eq!(change.is_some(), contradicted, "{state}, {answer:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_wait_ends_after_now_and_not_long_after_giving_up(
            resends in 1_u32..50,
            returned in 0_u32..50,
            jitter in 0.0_f64..=1.0,
            open_for_s in 0_i64..200_000,
            which in 0_usize..5,
        ) {
            let since = UnixMillis::from_ms(NOW - open_for_s * 1_000);
            let row = Overdue { since, ..asking(resends, returned) };
            let answer = &answers()[which].0;
            let change = hear(&row, &Recorded::default(), answer, &POLICY, now(), jitter);
            let due = change.expect("it waits").to.due().expect("it waits");
            prop_assert!(due > now());
            let latest = row.gives_up(&POLICY).max(now().after(POLICY.resend_delay));
            prop_assert!(due <= latest);
        }
    }
}

//! What an upstream's answer, or the lack of one, means for the row it was asked about.

use std::time::Duration;

use countersign_protocol::UnixMillis;

use crate::rules::cause::Cause;
use crate::rules::overdue::{Overdue, Policy, Recorded, Transition};
use crate::rules::states::{State, StateName};

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
    /// The address leads to another upstream, or to one with another database: it looked nothing up.
    Misdirected {
        /// Which one is meant, and which one answers.
        why: String,
        /// Whether the whole address is wrong. Otherwise the upstream may answer for other messages.
        is_other_upstream: bool,
    },
    /// The call surely did not happen, or was refused before it did anything.
    NotAsked {
        /// What failed.
        why: String,
    },
    /// The upstream may have sent it again or not.
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
            Self::NotPublished { .. }
            | Self::Misdirected { .. }
            | Self::NotAsked { .. }
            | Self::Unanswered { .. } => None,
        }
    }

    /// Whether it is a last word: one that only the upstream and the database that are meant can give.
    #[must_use]
    pub(crate) fn is_last_word(&self) -> bool {
        matches!(self, Self::NeverCommitted | Self::Withdrawn { .. } | Self::Unknown { .. })
    }

    /// Whether the message may have been sent again.
    #[must_use]
    pub(crate) fn may_have_sent(&self) -> bool {
        matches!(self, Self::Republished { .. } | Self::Unanswered { .. })
    }
}

/// The longest wait after a resend, however often the delay has doubled.
pub(crate) const LONGEST_RESEND_DELAY: Duration = Duration::from_secs(60 * 60);

/// The longest wait after a call that did not happen. Shorter than after a resend: no consumer has been
/// burdened, and when the upstream is back its messages should not wait long.
pub(crate) const LONGEST_NOT_MADE_DELAY: Duration = Duration::from_secs(5 * 60);

/// The shortest wait when an upstream says "in progress" without saying for how long.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// By how much a wait is lengthened at most, so that what failed together is not asked for together.
const JITTER: f64 = 0.25;

/// What becomes of a row when its answer is in, at `now` on the database's clock.
///
/// `None` if the answer changes nothing: the row has been closed or parked in the meantime.
/// `jitter` is a random number from 0 to 1.
#[must_use]
pub(crate) fn after_answer(
    overdue: &Overdue,
    recorded: &Recorded,
    answer: &Answer,
    policy: &Policy,
    now: UnixMillis,
    jitter: f64,
) -> Option<Transition> {
    if *answer == Answer::NeverCommitted && !recorded.confirmed.is_empty() {
        let known = matches!(overdue.state.name(), StateName::Asking | StateName::Confirmed);
        return known.then(|| overdue.contradicted(&recorded.confirmed));
    }
    if overdue.state.name() != StateName::Asking {
        return None;
    }
    if overdue.missing(recorded).is_empty() {
        return Some(overdue.settled());
    }
    let upstream = &overdue.key.upstream;
    // Not beyond the time of giving up; but what was sent again gets its time.
    let wait = |delay, at_least| State::Waiting {
        due: now.after(delay).min(overdue.gives_up(policy).max(now.after(at_least))),
    };
    let used = |cause, reason| Transition {
        calls_not_made: 0,
        ..overdue.transition(
            wait(used_delay(overdue, policy, jitter), policy.resend_delay),
            cause,
            reason,
        )
    };
    let not_made = |delay, cause, reason| Transition {
        resends: overdue.resends.saturating_sub(1),
        calls_not_made: overdue.calls_not_made.saturating_add(1),
        ..overdue.transition(wait(delay, SHORTEST_WAIT), cause, reason)
    };
    let change = match answer {
        Answer::NeverCommitted => {
            return Some(overdue.transition(
                State::NeverCommitted,
                Cause::NeverCommitted,
                format!("{upstream} says that its transaction never committed"),
            ));
        }
        Answer::Withdrawn { reason } => {
            return Some(overdue.transition(
                State::Withdrawn,
                Cause::Withdrawn,
                format!("withdrawn by {upstream}: {reason}"),
            ));
        }
        Answer::Unknown { reason } => overdue.transition(
            State::Parked,
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
        Answer::InProgress { retry_after } => not_made(
            jittered((*retry_after).clamp(SHORTEST_WAIT, LONGEST_NOT_MADE_DELAY), jitter),
            Cause::InProgress,
            format!("{upstream} says that its transaction may still commit"),
        ),
        Answer::NotPublished { reason } => not_made(
            not_made_delay(overdue, policy, jitter),
            Cause::NotPublished,
            format!("{upstream} could not send it: {reason}"),
        ),
        Answer::Misdirected { why, .. } => not_made(
            not_made_delay(overdue, policy, jitter),
            Cause::Misdirected,
            format!("the address of {upstream} leads elsewhere: {why}"),
        ),
        Answer::NotAsked { why } => not_made(
            not_made_delay(overdue, policy, jitter),
            Cause::UpstreamAway,
            format!("{upstream} could not be asked: {why}"),
        ),
    };
    let change = Transition {
        missing_after: change.to.due().map(|due| match answer {
            // Nothing new is under way.
            Answer::NotAsked { .. } | Answer::Misdirected { .. } | Answer::NotPublished { .. } => {
                now
            }
            _ => due,
        }),
        sent_at: match answer {
            Answer::Republished { at } => *at,
            _ => None,
        },
        ..change
    };
    // An open row that a consumer has rejected waits for an operator, whatever else would be tried.
    Some(match overdue.rejection(recorded) {
        Some(rejection) => {
            Transition { to: State::Parked, cause: Cause::Rejected, reason: rejection, ..change }
        }
        None => change,
    })
}

fn used_delay(overdue: &Overdue, policy: &Policy, jitter: f64) -> Duration {
    let doublings = overdue.resends.saturating_sub(1);
    jittered(doubled(policy.resend_delay, doublings, LONGEST_RESEND_DELAY), jitter)
}

fn not_made_delay(overdue: &Overdue, policy: &Policy, jitter: f64) -> Duration {
    jittered(doubled(policy.resend_delay, overdue.calls_not_made, LONGEST_NOT_MADE_DELAY), jitter)
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
mod tests;

//! What is to be done about an overdue message: decided from what is known, done elsewhere.

use std::ops::RangeInclusive;
use std::time::Duration;

use countersign_protocol::{Attempt, Name, UnixMillis};

use crate::rules::backlog::{Standing, Wanted, Whereabouts};
use crate::rules::cause::Cause;
use crate::rules::overdue::{Overdue, Policy, Recorded, Transition, Word, list};
use crate::rules::states::{State, StateName};

/// All that a verdict rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'a> {
    /// The row, as it is under its lock.
    pub(crate) overdue: &'a Overdue,
    /// What is recorded, read under that lock.
    pub(crate) recorded: &'a Recorded,
    /// Whether there is an address to ask its upstream at.
    pub(crate) address_known: bool,
    /// How far confirms are recorded and consumers are, read before what is recorded was.
    pub(crate) whereabouts: &'a Whereabouts,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: everybody has confirmed.
    Settled,
    /// Nothing yet.
    Defer {
        /// When to judge again, on the database's clock.
        until: UnixMillis,
        /// Why, in a word.
        cause: Cause,
        /// Why, for a person.
        why: String,
    },
    /// The upstream is to send it again.
    Ask {
        /// Which publish of the message that will be.
        attempt: Attempt,
        /// For whom.
        missing: Vec<Name>,
    },
    /// Nothing more can be done here.
    Park {
        /// Why, in a word.
        cause: Cause,
        /// Why, for a person.
        why: String,
    },
}

/// How long a confirm may be on its way after the consumer's next try, before the message counts as
/// missing there.
pub(crate) const CONFIRM_TRAVELS: Duration = Duration::from_secs(5);

/// How often a message of an upstream without an address is looked at again: the address may be
/// known to a replica that has been started since.
pub(crate) const LOOK_FOR_ADDRESS: Duration = Duration::from_secs(60);

/// When a message is judged again that waits for something that is noticed by looking: after a
/// quarter of the time that it has waited already, within these bounds. So what has just come due
/// heals at once, and 100,000 that wait for long cost little.
const LOOK_AGAIN: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(30);

/// A consumer that is behind needs some time at least.
const CATCHES_UP: Duration = Duration::from_millis(500);

/// Judges a message that is due, at `now` on the database's clock.
///
/// The rules stand in the order in which they are asked; the first that has something to say
/// decides. What is known beyond the message itself (whether confirms are still on their way, how
/// far behind a consumer is, whether the upstream can take more) joins as a field of [`Case`] and a
/// rule before [`resends_used_up`]: a message must not be parked or sent again for a delay.
#[must_use]
pub(crate) fn judge(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Verdict {
    let rules: [Rule; 8] = [
        everybody_confirmed,
        rejected,
        open_too_long,
        tried_again,
        confirm_under_way,
        consumer_behind,
        resends_used_up,
        no_address,
    ];
    rules.iter().find_map(|rule| rule(case, policy, now)).unwrap_or_else(|| Verdict::Ask {
        attempt: next_attempt(case.overdue),
        missing: lacking(case, policy, now),
    })
}

type Rule = fn(&Case<'_>, &Policy, UnixMillis) -> Option<Verdict>;

fn everybody_confirmed(case: &Case<'_>, _: &Policy, _: UnixMillis) -> Option<Verdict> {
    case.overdue.missing(case.recorded).is_empty().then_some(Verdict::Settled)
}

fn rejected(case: &Case<'_>, _: &Policy, _: UnixMillis) -> Option<Verdict> {
    Some(Verdict::Park { cause: Cause::Rejected, why: case.overdue.rejection(case.recorded)? })
}

fn open_too_long(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Option<Verdict> {
    let open = now.since(case.overdue.watched_since());
    (open >= policy.park_after).then(|| Verdict::Park {
        cause: Cause::OpenTooLong,
        why: format!("unresolved for {}; last: {}", in_words(open), case.overdue.reason),
    })
}

/// Everybody who is missing has the message and tries again by itself.
fn tried_again(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Option<Verdict> {
    if !not_trying(case, now).is_empty() {
        return None;
    }
    let missing = case.overdue.missing(case.recorded);
    let trying = case.recorded.reports.iter().filter(|report| missing.contains(&report.consumer));
    let until = trying.filter_map(|report| still_trying(report.word, now)).min()?;
    let why = format!("{} failed, and will try again without a resend", list(&missing));
    Some(Verdict::Defer {
        until: until.min(gives_up(case, policy)),
        cause: Cause::ConsumerRetrying,
        why,
    })
}

/// A message is missing only if no confirm of it can be with the broker any more.
fn confirm_under_way(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Option<Verdict> {
    let passed = case.whereabouts.watermark.is_some_and(|mark| mark > case.overdue.missing_after);
    (!passed).then(|| Verdict::Defer {
        until: look_again(case, policy, now),
        cause: Cause::ConfirmUnderWay,
        why: deferred(case, "its confirm may be with the broker, not recorded yet"),
    })
}

/// Everybody who is missing may still come to the message by itself: a resend would only lengthen
/// the queue.
fn consumer_behind(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Option<Verdict> {
    let Overdue { key, missing_after, .. } = case.overdue;
    let standing = |name: &Name| case.whereabouts.standing(name, case.overdue, policy, now);
    let waited_for = not_trying(case, now);
    // Who is furthest behind decides what is said; who is missing, that something is done.
    if waited_for.iter().any(|name| standing(name) == Standing::Missing) {
        return None;
    }
    let (standing, consumer) = waited_for.iter().map(|name| (standing(name), name)).max()?;
    let upstream = &key.upstream;
    let (cause, why, clear_at) = match standing {
        Standing::Missing => return None,
        Standing::NeverSeen(at) => (
            Cause::ConsumerNeverSeen,
            format!("{consumer} has never confirmed a message of {upstream}: does it run?"),
            Some(at),
        ),
        Standing::Unclear(at) => (
            Cause::BacklogUnknown,
            format!("whether it still lies before {consumer} is not known yet"),
            Some(at),
        ),
        Standing::Behind(_) => {
            (Cause::ConsumerBehind, format!("{consumer} is behind, and may still come to it"), None)
        }
    };
    let pause = (now.since(*missing_after) / 4).max(CATCHES_UP);
    let until = look_again(case, policy, now).max(now.after(pause.min(*LOOK_AGAIN.end())));
    Some(Verdict::Defer {
        until: clear_at.map_or(until, |at| until.min(at)).min(gives_up(case, policy)),
        cause,
        why: deferred(case, &why),
    })
}

fn resends_used_up(case: &Case<'_>, policy: &Policy, _: UnixMillis) -> Option<Verdict> {
    let overdue = case.overdue;
    let most = overdue.max_resends(policy);
    (overdue.resends >= most).then(|| Verdict::Park {
        cause: Cause::ResendsUsedUp,
        why: format!(
            "not confirmed by {} after {} of {most} resends; last: {}",
            list(&overdue.missing(case.recorded)),
            overdue.resends,
            before_deferral(&overdue.reason)
        ),
    })
}

fn no_address(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Option<Verdict> {
    let upstream = &case.overdue.key.upstream;
    (!case.address_known).then(|| Verdict::Defer {
        until: now.after(LOOK_FOR_ADDRESS).min(gives_up(case, policy)),
        cause: Cause::NoAddress,
        why: format!("no address for upstream {upstream}: add it to COUNTERSIGN_UPSTREAMS"),
    })
}

/// What becomes of a row that is not being judged when a confirm or a rejection of its message was
/// recorded. `None` if nothing.
#[must_use]
pub(crate) fn after_confirm(overdue: &Overdue, recorded: &Recorded) -> Option<Transition> {
    match overdue.state.name() {
        StateName::NeverCommitted if !recorded.confirmed.is_empty() => {
            Some(overdue.contradicted(&recorded.confirmed))
        }
        StateName::Waiting | StateName::Asking | StateName::Parked
            if overdue.missing(recorded).is_empty() =>
        {
            Some(overdue.settled())
        }
        StateName::Waiting | StateName::Asking => {
            Some(overdue.transition(State::Parked, Cause::Rejected, overdue.rejection(recorded)?))
        }
        StateName::Parked
        | StateName::NeverCommitted
        | StateName::Confirmed
        | StateName::Withdrawn
        | StateName::Conflict
        | StateName::ClosedByHand => None,
    }
}

/// Whose resend it would be: who is missing, and will not come to the message without one.
fn lacking(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Vec<Name> {
    let mut names = not_trying(case, now);
    names.retain(|name| {
        case.whereabouts.standing(name, case.overdue, policy, now) == Standing::Missing
    });
    names
}

/// What would have to be looked at before a message that was deferred can be judged otherwise.
#[must_use]
pub(crate) fn wanted(case: &Case<'_>, cause: Cause, policy: &Policy, now: UnixMillis) -> Wanted {
    match cause {
        Cause::ConfirmUnderWay => {
            Wanted { marker_after: Some(case.overdue.missing_after), ..Wanted::default() }
        }
        Cause::ConsumerBehind | Cause::ConsumerNeverSeen | Cause::BacklogUnknown => {
            let of = |name| case.whereabouts.wanted(&name, case.overdue, policy);
            not_trying(case, now).into_iter().map(of).fold(Wanted::default(), |mut all, one| {
                all.queues.extend(one.queues);
                all.marker_after = all.marker_after.max(one.marker_after);
                all
            })
        }
        _ => Wanted::default(),
    }
}

/// Who is missing and does not try again by itself.
fn not_trying(case: &Case<'_>, now: UnixMillis) -> Vec<Name> {
    let tries = |name: &Name| {
        let mut reports = case.recorded.reports.iter();
        reports.any(|r| r.consumer == *name && still_trying(r.word, now).is_some())
    };
    case.overdue.missing(case.recorded).into_iter().filter(|name| !tries(name)).collect()
}

/// Until when a consumer's own next try is waited for, unless that has passed.
fn still_trying(word: Word, now: UnixMillis) -> Option<UnixMillis> {
    match word {
        Word::Retrying { until } => {
            Some(until.after(CONFIRM_TRAVELS)).filter(|waited| *waited > now)
        }
        Word::Rejected => None,
    }
}

/// What stands between a deferral's reason and the one before it.
const BEFORE: &str = "; before that: ";

/// A deferral's reason, with the last one that was none: deferrals come and go without history, and
/// what was last done about the message should not go with them.
fn deferred(case: &Case<'_>, why: &str) -> String {
    let ran_out = match case.overdue.state {
        State::Asking { .. } => "; the one who asked gave no answer back",
        _ => "",
    };
    format!("{why}{BEFORE}{}{ran_out}", before_deferral(&case.overdue.reason))
}

fn before_deferral(reason: &str) -> &str {
    reason.rsplit_once(BEFORE).map_or(reason, |(_, before)| before)
}

/// When it is worth looking whether what is waited for has happened.
fn look_again(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> UnixMillis {
    let waited = now.since(case.overdue.missing_after);
    let pause = (waited / 4).clamp(*LOOK_AGAIN.start(), *LOOK_AGAIN.end());
    now.after(pause).min(gives_up(case, policy))
}

/// When the message is parked, whatever happens.
fn gives_up(case: &Case<'_>, policy: &Policy) -> UnixMillis {
    case.overdue.gives_up(policy)
}

/// In the two largest units: `1day 3h`.
pub(crate) fn in_words(time: Duration) -> String {
    let words = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    words.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// The message's first publish was attempt 1, each resend is the next.
fn next_attempt(overdue: &Overdue) -> Attempt {
    Attempt::from_number(overdue.resends.saturating_add(1)).unwrap_or(Attempt::FIRST).next()
}

#[cfg(test)]
mod tests;

//! What is to be done about an overdue message: decided from what is known, done elsewhere.

use std::ops::RangeInclusive;
use std::time::Duration;

use countersign_protocol::{Attempt, Name, UnixMillis};

use crate::rules::backlog::{BacklogPosition, Wanted, Whereabouts};
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
    /// Nothing: every consumer has confirmed.
    Settled,
    /// Nothing yet.
    Defer {
        /// When the row is judged again, on the database's clock.
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

/// How long a confirm may be on its way after the consumer's next try. Shorter, and a resend overtakes
/// a confirm that is with the broker; longer, and a message that failed again heals that much later.
pub(crate) const CONFIRM_TRAVELS: Duration = Duration::from_secs(5);

/// The pause before a message of an upstream without an address is judged again: a replica that was
/// started since may know the address.
pub(crate) const LOOK_FOR_ADDRESS: Duration = Duration::from_secs(60);

/// The pause before a deferred message is judged again, for a wait that no event ends: a quarter of
/// the time that the message has waited already, within these bounds. So a message that has just come
/// due heals at once, and 100,000 messages that wait for long cost little.
const LOOK_AGAIN: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(30);

/// The shortest pause for a consumer that is behind: it needs some time to catch up, and each
/// judgement sooner than that only costs a round.
const CATCHES_UP: Duration = Duration::from_millis(500);

/// Judges a message that is due, at `now` on the database's clock.
///
/// The rules stand in their order of precedence: the first one that gives a verdict decides, and the
/// last one, [`ask_upstream`], always gives one. A further reason to wait (confirms are still on
/// their way, a consumer is behind) joins as a field of [`Case`] and a rule before
/// [`resends_used_up`]: a message must be neither parked nor sent again for a delay.
///
/// What an upstream may be asked for is no rule here. A verdict is about one message; the circuit
/// breaker, the rate limit and the canaries are about an upstream, and decide how many of its rows
/// with the verdict [`Verdict::Ask`] are asked for now. The other rows stay due, and use up no resend
/// (see ARCHITECTURE.md).
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
    let earlier = rules.iter().find_map(|rule| rule(case, policy, now));
    earlier.unwrap_or_else(|| ask_upstream(case, policy, now))
}

/// A rule that gives no verdict leaves the message to the rules after it.
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

/// Every missing consumer has the message and tries again by itself.
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

/// Every missing consumer may still come to the message by itself: a resend would only lengthen its
/// queue. A person who asks for a resend knows better.
fn consumer_behind(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Option<Verdict> {
    let Overdue { key, missing_after, .. } = case.overdue;
    if case.overdue.is_insisted_on() {
        return None;
    }
    let position = |name: &Name| position(case, name, policy, now);
    let waited_for = not_trying(case, now);
    // One consumer that the message did not reach is enough for a resend. Otherwise the reason names
    // the consumer that is furthest behind.
    if waited_for.iter().any(|name| position(name) == BacklogPosition::Missing) {
        return None;
    }
    let (position, consumer) = waited_for.iter().map(|name| (position(name), name)).max()?;
    let upstream = &key.upstream;
    let (cause, why, clear_at) = match position {
        BacklogPosition::Missing => return None,
        BacklogPosition::NeverSeen(at) => (
            Cause::ConsumerNeverSeen,
            format!("{consumer} has never confirmed a message of {upstream}: does it run?"),
            Some(at),
        ),
        BacklogPosition::Unclear(at) => (
            Cause::BacklogUnknown,
            format!("whether it still lies before {consumer} is not known yet"),
            Some(at),
        ),
        BacklogPosition::Behind(_) => {
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

/// The last rule: no consumer's confirm can be on its way, and nothing else speaks against a resend.
fn ask_upstream(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Verdict {
    Verdict::Ask { attempt: next_attempt(case.overdue), missing: lacking(case, policy, now) }
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

/// The consumers that a resend is for: each lacks the message, and will not come to it without one.
fn lacking(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> Vec<Name> {
    let mut names = not_trying(case, now);
    if !case.overdue.is_insisted_on() {
        names.retain(|name| position(case, name, policy, now) == BacklogPosition::Missing);
    }
    names
}

fn position(case: &Case<'_>, name: &Name, policy: &Policy, now: UnixMillis) -> BacklogPosition {
    let from = may_arrive_until(case, name);
    case.whereabouts.position(name, case.overdue, from, policy, now)
}

/// The moment up to which the message may have come to a consumer's queue: a consumer that tries again by
/// itself gets it once more.
fn may_arrive_until(case: &Case<'_>, name: &Name) -> UnixMillis {
    let reports = case.recorded.reports.iter().filter(|report| report.consumer == *name);
    let tried_again = reports.filter_map(|report| report.word.until()).max();
    let tried_again = tried_again.map(|until| until.after(CONFIRM_TRAVELS));
    case.overdue.missing_after.max(tried_again.unwrap_or(case.overdue.missing_after))
}

/// The readings without which a deferred message cannot be judged otherwise.
#[must_use]
pub(crate) fn wanted(case: &Case<'_>, cause: Cause, policy: &Policy, now: UnixMillis) -> Wanted {
    let confirm_under_way = cause == Cause::ConfirmUnderWay;
    let marker = confirm_under_way.then_some(case.overdue.missing_after);
    match cause {
        // The queues are looked into from the first judgement on, so that both waits go on at once and
        // no grace runs out before anybody has looked.
        Cause::ConfirmUnderWay
        | Cause::ConsumerBehind
        | Cause::ConsumerNeverSeen
        | Cause::BacklogUnknown => {
            let of = |name: Name| {
                let from = may_arrive_until(case, &name);
                case.whereabouts.wanted(&name, case.overdue, from, policy)
            };
            let all = not_trying(case, now).into_iter().map(of);
            all.fold(Wanted { marker_after: marker, ..Wanted::default() }, |mut all, one| {
                all.queues.extend(one.queues);
                all.marker_after = all.marker_after.max(one.marker_after);
                all
            })
        }
        _ => Wanted::default(),
    }
}

/// The missing consumers that do not try again by themselves, and have not rejected the message.
fn not_trying(case: &Case<'_>, now: UnixMillis) -> Vec<Name> {
    let tries = |name: &Name| {
        let mut reports = case.recorded.reports.iter();
        reports.any(|r| r.consumer == *name && still_trying(r.word, now).is_some())
    };
    let mut names = case.overdue.missing(case.recorded);
    names.retain(|name| !tries(name) && case.recorded.rejection_by(name).is_none());
    names
}

/// The moment until which the row waits for a consumer's own next try. `None` if it has passed.
fn still_trying(word: Word, now: UnixMillis) -> Option<UnixMillis> {
    match word {
        Word::Retrying { until } => {
            Some(until.after(CONFIRM_TRAVELS)).filter(|waited| *waited > now)
        }
        Word::Rejected => None,
    }
}

/// Stands between a deferral's reason and the reason before it.
const BEFORE: &str = "; before that: ";

/// A deferral's reason, followed by the last reason that was not a deferral's: a deferral leaves no
/// history, so that an operator would lose sight of what was last done about the message.
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

/// When the row is judged again, as no event tells the service that its wait is over.
fn look_again(case: &Case<'_>, policy: &Policy, now: UnixMillis) -> UnixMillis {
    let waited = now.since(case.overdue.missing_after);
    let pause = (waited / 4).clamp(*LOOK_AGAIN.start(), *LOOK_AGAIN.end());
    now.after(pause).min(gives_up(case, policy))
}

/// The moment at which the message is parked, whatever happens.
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

//! What is to be done about an overdue message: decided from what is known, done elsewhere.

use std::ops::RangeInclusive;
use std::time::Duration;

use countersign_protocol::{Attempt, Name, UnixMillis};

use crate::rules::backlog::{Standing, Wanted, Whereabouts};
use crate::rules::overdue::{Cause, Change, Overdue, Policy, Recorded, State, To, Word, list};

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

/// What consumers have said just now about a row that is not being judged: what a late confirm or
/// rejection means for it. `None` if nothing.
#[must_use]
pub(crate) fn hear(overdue: &Overdue, recorded: &Recorded) -> Option<Change> {
    match overdue.state {
        State::NeverCommitted if !recorded.confirmed.is_empty() => {
            Some(overdue.contradicted(&recorded.confirmed))
        }
        State::Waiting | State::Asking | State::Parked if overdue.missing(recorded).is_empty() => {
            Some(overdue.settled())
        }
        State::Waiting | State::Asking => {
            Some(overdue.change(To::Parked, Cause::Rejected, overdue.rejection(recorded)?))
        }
        State::Parked
        | State::NeverCommitted
        | State::Confirmed
        | State::Withdrawn
        | State::Conflict
        | State::ClosedByHand => None,
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
        State::Asking => "; the one who asked gave no answer back",
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
mod tests {
    use countersign_protocol::MessageId;
    use proptest::prelude::*;

    use super::*;
    use crate::rules::backlog::{Depth, Progress};
    use crate::rules::overdue::{Closed, Key, Report};

    const NOW: i64 = 1_795_231_234_567;
    const POLICY: Policy = Policy {
        max_resends: 3,
        resend_delay: Duration::from_secs(30),
        park_after: Duration::from_secs(1_000),
        backlog_patience: Duration::from_secs(10),
        management_lag: Duration::from_secs(12),
    };

    fn now() -> UnixMillis {
        UnixMillis::from_ms(NOW)
    }

    fn in_s(seconds: i64) -> UnixMillis {
        UnixMillis::from_ms(NOW + seconds * 1_000)
    }

    /// Every confirm is recorded, and nobody is behind.
    fn caught_up() -> Whereabouts {
        let progress = |consumer: &Name| Progress {
            consumer: consumer.clone(),
            queue: format!("{consumer}.orders"),
            upstream: "orders".parse().unwrap(),
            confirmed_up_to: Some(in_s(1_000)),
        };
        Whereabouts {
            watermark: Some(in_s(1)),
            progress: names(&NAMES).iter().map(progress).collect(),
            ..Whereabouts::default()
        }
    }

    fn in_ms(ms: i64) -> UnixMillis {
        UnixMillis::from_ms(NOW + ms)
    }

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn overdue(consumers: &[&str], resends: u32, open_for_s: i64) -> Overdue {
        Overdue {
            key: Key {
                message_id: MessageId::from_parts(now(), [0; 10]),
                upstream: "orders".parse().unwrap(),
            },
            consumers: names(consumers),
            state: State::Waiting,
            reason: "what was last".to_owned(),
            resends,
            returned: 0,
            granted: 0,
            granted_at: None,
            since: in_s(-open_for_s),
            missing_after: in_s(-open_for_s),
            sent_at: Some(in_s(-open_for_s)),
            lease: None,
        }
    }

    fn recorded(confirmed: &[&str], reports: &[(&str, Word)]) -> Recorded {
        let report = |(consumer, word): &(&str, Word)| Report {
            consumer: consumer.parse().unwrap(),
            word: *word,
            reason: "because".to_owned(),
        };
        Recorded { confirmed: names(confirmed), reports: reports.iter().map(report).collect() }
    }

    fn retrying(seconds: i64) -> Word {
        Word::Retrying { until: in_s(seconds) }
    }

    fn ask(attempt: u32, missing: &[&str]) -> Verdict {
        Verdict::Ask { attempt: Attempt::from_number(attempt).unwrap(), missing: names(missing) }
    }

    fn park(cause: Cause, why: &str) -> Verdict {
        Verdict::Park { cause, why: why.to_owned() }
    }

    fn defer(until: UnixMillis, cause: Cause, why: &str) -> Verdict {
        Verdict::Defer { until, cause, why: why.to_owned() }
    }

    #[test]
    fn each_case_has_its_verdict() {
        let one: &[&str] = &["logistics"];
        let two: &[&str] = &["billing", "logistics"];
        let tries_again = "logistics failed, and will try again without a resend";
        let no_address = "no address for upstream orders: add it to COUNTERSIGN_UPSTREAMS";
        let rejected = ("logistics", Word::Rejected);
        #[rustfmt::skip]
        let cases = [
            ("nothing is recorded",
                overdue(one, 0, 0), recorded(&[], &[]), true, ask(2, one)),
            ("one resend was not confirmed either",
                overdue(one, 1, 0), recorded(&[], &[]), true, ask(3, one)),
            ("confirmed",
                overdue(one, 0, 0), recorded(&["logistics"], &[]), true, Verdict::Settled),
            ("confirmed, and whoever else was not asked for",
                overdue(one, 0, 0), recorded(&["audit", "logistics"], &[]), true, Verdict::Settled),
            ("confirmed after the last resend",
                overdue(one, 3, 0), recorded(&["logistics"], &[]), true, Verdict::Settled),
            ("confirmed, although open too long",
                overdue(one, 3, 9_999), recorded(&["logistics"], &[]), true, Verdict::Settled),
            ("confirmed, although rejected before",
                overdue(one, 0, 0), recorded(&["logistics"], &[rejected]), true, Verdict::Settled),
            ("confirmed by one of two",
                overdue(two, 0, 0), recorded(&["logistics"], &[]), true, ask(2, &["billing"])),
            ("confirmed by somebody else",
                overdue(one, 0, 0), recorded(&["audit"], &[]), true, ask(2, one)),
            ("rejected",
                overdue(one, 0, 0), recorded(&[], &[rejected]), true, park(Cause::Rejected, "rejected by logistics: because")),
            ("rejected by one of two, the other still missing",
                overdue(two, 0, 0), recorded(&[], &[rejected]), true, park(Cause::Rejected, "rejected by logistics: because")),
            ("rejected by somebody who need not confirm",
                overdue(&["billing"], 0, 0), recorded(&[], &[rejected]), true, ask(2, &["billing"])),
            ("open too long",
                overdue(one, 1, 1_000), recorded(&[], &[]), true, park(Cause::OpenTooLong, "unresolved for 16m 40s; last: what was last")),
            ("open nearly too long",
                overdue(one, 1, 999), recorded(&[], &[]), true, ask(3, one)),
            ("no resends left",
                overdue(one, 3, 0), recorded(&[], &[]), true,
                park(Cause::ResendsUsedUp, "not confirmed by logistics after 3 of 3 resends; last: what was last")),
            ("more resends were made than are allowed now",
                overdue(two, 5, 0), recorded(&["billing"], &[]), true,
                park(Cause::ResendsUsedUp, "not confirmed by logistics after 5 of 3 resends; last: what was last")),
            ("the consumer tries again in a minute",
                overdue(one, 0, 0), recorded(&[], &[("logistics", retrying(60))]), true, defer(in_s(65), Cause::ConsumerRetrying, tries_again)),
            ("the consumer tries again, and no resends are left",
                overdue(one, 3, 0), recorded(&[], &[("logistics", retrying(60))]), true, defer(in_s(65), Cause::ConsumerRetrying, tries_again)),
            ("the consumer has tried again just now",
                overdue(one, 0, 0), recorded(&[], &[("logistics", retrying(-4))]), true, defer(in_s(1), Cause::ConsumerRetrying, tries_again)),
            ("the consumer wanted to try again",
                overdue(one, 0, 0), recorded(&[], &[("logistics", retrying(-5))]), true, ask(2, one)),
            ("the consumer tries again later than we wait",
                overdue(one, 0, 990), recorded(&[], &[("logistics", retrying(60))]), true, defer(in_s(10), Cause::ConsumerRetrying, tries_again)),
            ("one tries again, the other has not been heard of",
                overdue(two, 0, 0), recorded(&[], &[("logistics", retrying(60))]), true, ask(2, &["billing"])),
            ("one tries again, the other has confirmed",
                overdue(two, 0, 0), recorded(&["billing"], &[("logistics", retrying(60))]), true,
                defer(in_s(65), Cause::ConsumerRetrying, tries_again)),
            ("both try again, the first decides",
                overdue(two, 0, 0), recorded(&[], &[("logistics", retrying(60)), ("billing", retrying(20))]), true,
                defer(in_s(25), Cause::ConsumerRetrying, "billing, logistics failed, and will try again without a resend")),
            ("there is no address",
                overdue(one, 0, 0), recorded(&[], &[]), false, defer(in_s(60), Cause::NoAddress, no_address)),
            ("there is no address, soon for too long",
                overdue(one, 0, 990), recorded(&[], &[]), false, defer(in_s(10), Cause::NoAddress, no_address)),
            ("there is no address, and no need for one",
                overdue(one, 0, 0), recorded(&["logistics"], &[]), false, Verdict::Settled),
            ("there is no address, and no resend left to need it for",
                overdue(one, 3, 0), recorded(&[], &[]), false,
                park(Cause::ResendsUsedUp, "not confirmed by logistics after 3 of 3 resends; last: what was last")),
        ];
        for (what, overdue, recorded, address_known, expected) in cases {
            let case = Case {
                overdue: &overdue,
                recorded: &recorded,
                address_known,
                whereabouts: &caught_up(),
            };
            assert_eq!(judge(&case, &POLICY, now()), expected, "{what}");
        }
    }

    #[test]
    fn a_delay_is_no_reason_to_ask_or_to_park() {
        let one: &[&str] = &["logistics"];
        let two: &[&str] = &["billing", "logistics"];
        let nobody = recorded(&[], &[]);
        let lying = |ready| Depth { read_at: in_s(0), empty_at: None, ready, held: None };
        let behind = |name: &str| {
            let mut known = caught_up();
            known.progress.retain(|p| p.consumer.as_str() != name);
            known.progress.push(Progress {
                consumer: name.parse().unwrap(),
                queue: "deep".to_owned(),
                upstream: "orders".parse().unwrap(),
                confirmed_up_to: Some(UnixMillis::EPOCH),
            });
            known.depths.insert("deep".to_owned(), lying(5));
            known
        };
        let never_seen = || Whereabouts { progress: Vec::new(), ..caught_up() };
        let unrecorded = |mark| Whereabouts { watermark: mark, ..caught_up() };
        let under_way =
            "its confirm may be with the broker, not recorded yet; before that: what was last";
        let catching_up =
            "logistics is behind, and may still come to it; before that: what was last";
        let unheard_of = "logistics has never confirmed a message of orders: does it run?; before that: what was last";
        #[rustfmt::skip]
        let cases = [
            ("no marker has ever come back", overdue(one, 0, 0), unrecorded(None),
                defer(in_ms(250), Cause::ConfirmUnderWay, under_way)),
            ("the last marker was sent before", overdue(one, 0, 40), unrecorded(Some(in_s(-40))),
                defer(in_s(10), Cause::ConfirmUnderWay, under_way)),
            ("a marker was sent after", overdue(one, 0, 40), unrecorded(Some(in_s(-39))), ask(2, one)),
            ("no resends are left, and its confirm may be under way", overdue(one, 3, 0), unrecorded(None),
                defer(in_ms(250), Cause::ConfirmUnderWay, under_way)),
            ("its consumer is behind", overdue(one, 0, 1), behind("logistics"),
                defer(in_ms(500), Cause::ConsumerBehind, catching_up)),
            ("its consumer has long been behind", overdue(one, 0, 40), behind("logistics"),
                defer(in_s(10), Cause::ConsumerBehind, catching_up)),
            ("its consumer has been behind for ages", overdue(one, 0, 900), behind("logistics"),
                defer(in_s(30), Cause::ConsumerBehind, catching_up)),
            ("its consumer is behind, and no resends are left", overdue(one, 3, 1), behind("logistics"),
                defer(in_ms(500), Cause::ConsumerBehind, catching_up)),
            ("its consumer is behind, and it is given up", overdue(one, 0, 1_000), behind("logistics"),
                park(Cause::OpenTooLong, "unresolved for 16m 40s; last: what was last")),
            ("one of two is behind, it lacks the other", overdue(two, 0, 1), behind("logistics"), ask(2, &["billing"])),
            ("its consumer was never seen", overdue(one, 0, 1), never_seen(),
                defer(in_ms(500), Cause::ConsumerNeverSeen, unheard_of)),
            ("its consumer was never seen for long", overdue(one, 0, 10), never_seen(), ask(2, one)),
        ];
        for (what, overdue, whereabouts, expected) in cases {
            let case = Case {
                overdue: &overdue,
                recorded: &nobody,
                address_known: true,
                whereabouts: &whereabouts,
            };
            assert_eq!(judge(&case, &POLICY, now()), expected, "{what}");
        }
    }

    #[test]
    fn a_deferral_keeps_what_was_last_done() {
        let overdue = Overdue { reason: "sent again".to_owned(), ..overdue(&["logistics"], 1, 0) };
        let unrecorded = Whereabouts { watermark: None, ..caught_up() };
        let again = |reason: &str| {
            let overdue = Overdue { reason: reason.to_owned(), ..overdue.clone() };
            let recorded = Recorded::default();
            let case = Case {
                overdue: &overdue,
                recorded: &recorded,
                address_known: true,
                whereabouts: &unrecorded,
            };
            match judge(&case, &POLICY, now()) {
                Verdict::Defer { why, .. } => why,
                other => panic!("{other:?}"),
            }
        };
        let once = again("sent again");
        assert!(once.ends_with("; before that: sent again"), "{once}");
        assert_eq!(again(&once), once, "it does not grow");
    }

    #[test]
    fn each_word_is_heard_in_each_state() {
        let word: [(&str, Recorded); 4] = [
            ("nothing", recorded(&[], &[("logistics", retrying(60))])),
            ("confirmed by somebody else", recorded(&["audit"], &[])),
            ("rejected", recorded(&[], &[("logistics", Word::Rejected)])),
            ("confirmed", recorded(&["logistics"], &[("logistics", Word::Rejected)])),
        ];
        let closed = |closed| Some(To::Closed(closed));
        let (confirmed, conflict) = (closed(Closed::Confirmed), closed(Closed::Conflict));
        for (state, expected) in [
            (State::Waiting, [None, None, Some(To::Parked), confirmed]),
            (State::Asking, [None, None, Some(To::Parked), confirmed]),
            (State::Parked, [None, None, None, confirmed]),
            (State::Confirmed, [None; 4]),
            (State::Withdrawn, [None; 4]),
            (State::Conflict, [None; 4]),
            (State::ClosedByHand, [None; 4]),
            (State::NeverCommitted, [None, conflict, None, conflict]),
        ] {
            for ((what, recorded), expected) in word.iter().zip(expected) {
                let overdue = Overdue { state, ..overdue(&["logistics"], 1, 0) };
                let change = hear(&overdue, recorded);
                assert_eq!(change.as_ref().map(|change| change.to), expected, "{what}, {state}");
                if let Some(change) = change {
                    assert_eq!((change.from, change.resends), (state, 1));
                }
            }
        }
    }

    const NAMES: [&str; 3] = ["audit", "billing", "logistics"];

    prop_compose! {
        fn any_recorded()(
            confirmed in proptest::sample::subsequence(NAMES.to_vec(), 0..=3),
            reporting in proptest::sample::subsequence(NAMES.to_vec(), 0..=3),
            words in proptest::collection::vec(
                prop_oneof![Just(Word::Rejected), (-2_000_i64..2_000).prop_map(retrying)], 3
            ),
        ) -> Recorded {
            let reports: Vec<_> = reporting.into_iter().zip(words).collect();
            recorded(&confirmed, &reports)
        }
    }

    prop_compose! {
        fn any_overdue()(
            consumers in proptest::sample::subsequence(NAMES.to_vec(), 1..=3),
            resends in 0_u32..6,
            open_for_s in 0_i64..3_000,
            taken_over in any::<bool>(),
        ) -> Overdue {
            let state = if taken_over { State::Asking } else { State::Waiting };
            Overdue { state, ..overdue(&consumers, resends, open_for_s) }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_known_the_verdict_keeps_the_promise(
            overdue in any_overdue(),
            recorded in any_recorded(),
            address_known in any::<bool>(),
        ) {
            let case = Case { overdue: &overdue, recorded: &recorded, address_known, whereabouts: &caught_up() };
            let missing = overdue.missing(&recorded);
            match judge(&case, &POLICY, now()) {
                Verdict::Settled => prop_assert!(missing.is_empty()),
                Verdict::Ask { attempt, missing: asked } => {
                    prop_assert!(address_known && overdue.resends < POLICY.max_resends);
                    prop_assert_eq!(attempt.number(), overdue.resends + 2);
                    prop_assert!(!asked.is_empty());
                    prop_assert!(asked.iter().all(|name| missing.contains(name)));
                }
                Verdict::Defer { until, why, .. } => {
                    prop_assert!(!missing.is_empty() && !why.is_empty());
                    prop_assert!(until > now(), "it would be judged again at once, for ever");
                    prop_assert!(until <= overdue.gives_up(&POLICY));
                }
                Verdict::Park { why, .. } => {
                    prop_assert!(!missing.is_empty() && !why.is_empty());
                }
            }
        }

        #[test]
        fn a_confirm_by_everybody_resolves_whatever_is_open(
            overdue in any_overdue(),
            recorded in any_recorded(),
        ) {
            let everybody = Recorded { confirmed: names(&NAMES), ..recorded };
            for state in [State::Waiting, State::Asking, State::Parked] {
                let open = Overdue { state, ..overdue.clone() };
                let change = hear(&open, &everybody).expect("it is resolved");
                prop_assert_eq!(change.to, To::Closed(Closed::Confirmed));
            }
        }
    }
}

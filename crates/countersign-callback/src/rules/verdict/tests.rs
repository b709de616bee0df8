use proptest::prelude::*;

use super::*;
use crate::rules::backlog::Progress;
use crate::rules::fixture::{self, POLICY, in_ms, in_s, names, now, recorded, state};
use crate::rules::states::is_step;

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

fn overdue(consumers: &[&str], resends: u32, open_for_s: i64) -> Overdue {
    Overdue {
        consumers: names(consumers),
        resends,
        since: in_s(-open_for_s),
        missing_after: in_s(-open_for_s),
        sent_at: Some(in_s(-open_for_s)),
        ..fixture::overdue(StateName::Waiting)
    }
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
            overdue(two, 0, 0), recorded(&[], &[rejected]), true, ask(2, &["billing"])),
        ("rejected by one of two, confirmed by the other",
            overdue(two, 0, 0), recorded(&["billing"], &[rejected]), true, park(Cause::Rejected, "rejected by logistics: because")),
        ("rejected by both",
            overdue(two, 0, 0), recorded(&[], &[rejected, ("billing", Word::Rejected)]), true, park(Cause::Rejected, "rejected by billing: because; rejected by logistics: because")),
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
    let behind = |name: &str| {
        let mut known = caught_up();
        known.progress.retain(|p| p.consumer.as_str() != name);
        known.progress.push(Progress {
            consumer: name.parse().unwrap(),
            queue: "deep".to_owned(),
            upstream: "orders".parse().unwrap(),
            confirmed_up_to: Some(UnixMillis::EPOCH),
        });
        known.depths.insert("deep".to_owned(), fixture::depth(0, 5, None));
        known
    };
    let never_seen = || Whereabouts { progress: Vec::new(), ..caught_up() };
    let unrecorded = |mark| Whereabouts { watermark: mark, ..caught_up() };
    let under_way =
        "its confirm may be with the broker, not recorded yet; before that: what was last";
    let catching_up = "logistics is behind, and may still come to it; before that: what was last";
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
fn each_word_of_a_consumer_counts_as_the_state_allows() {
    let word: [(&str, Recorded); 4] = [
        ("nothing", recorded(&[], &[("logistics", retrying(60))])),
        ("confirmed by somebody else", recorded(&["audit"], &[])),
        ("rejected", recorded(&[], &[("logistics", Word::Rejected)])),
        ("confirmed", recorded(&["logistics"], &[("logistics", Word::Rejected)])),
    ];
    let (confirmed, conflict) = (Some(State::Confirmed), Some(State::Conflict));
    for (name, expected) in [
        (StateName::Waiting, [None, None, Some(State::Parked), confirmed]),
        (StateName::Asking, [None, None, Some(State::Parked), confirmed]),
        (StateName::Parked, [None, None, None, confirmed]),
        (StateName::Confirmed, [None; 4]),
        (StateName::Withdrawn, [None; 4]),
        (StateName::Conflict, [None; 4]),
        (StateName::ClosedByHand, [None; 4]),
        (StateName::NeverCommitted, [None, conflict, None, conflict]),
    ] {
        for ((what, recorded), expected) in word.iter().zip(expected) {
            let overdue = Overdue { state: state(name), ..overdue(&["logistics"], 1, 0) };
            let went = after_confirm(&overdue, recorded);
            assert_eq!(went.as_ref().map(|went| went.to), expected, "{what}, {name}");
            if let Some(went) = went {
                assert_eq!((went.from, went.resends), (name, 1));
                assert!(is_step(went.from, went.to.name()), "{went:?}");
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
        let state = state(if taken_over { StateName::Asking } else { StateName::Waiting });
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
        for name in [StateName::Waiting, StateName::Asking, StateName::Parked] {
            let open = Overdue { state: state(name), ..overdue.clone() };
            let change = after_confirm(&open, &everybody).expect("it is resolved");
            prop_assert_eq!(change.to, State::Confirmed);
        }
    }
}

#[test]
fn a_person_s_grant_beats_behind_and_is_used_up_by_one_resend() {
    let nobody = recorded(&[], &[]);
    let mut known = caught_up();
    known.progress.iter_mut().for_each(|progress| progress.confirmed_up_to = None);
    for name in NAMES {
        known.depths.insert(format!("{name}.orders"), fixture::depth(0, 5, None));
    }
    let row = overdue(&["logistics"], 1, 10);
    let judged = |granted, granted_by_person| {
        let overdue =
            Overdue { granted, granted_at: Some(now()), granted_by_person, ..row.clone() };
        let whereabouts = &known;
        let case = Case { overdue: &overdue, recorded: &nobody, address_known: true, whereabouts };
        judge(&case, &POLICY, now())
    };
    assert_eq!(judged(2, true), ask(3, &["logistics"]));
    for (granted, by_person) in [(1, true), (2, false), (0, false)] {
        let verdict = judged(granted, by_person);
        let behind = matches!(verdict, Verdict::Defer { cause: Cause::ConsumerBehind, .. });
        assert!(behind, "{granted}, {by_person}: {verdict:?}");
    }
}

#[test]
fn queues_are_wanted_from_the_first_judgement_on() {
    let (overdue, recorded) = (overdue(&["logistics"], 0, 0), recorded(&[], &[]));
    let mut known = caught_up();
    known.progress.iter_mut().for_each(|progress| progress.confirmed_up_to = None);
    let case =
        Case { overdue: &overdue, recorded: &recorded, address_known: true, whereabouts: &known };
    let wanted = wanted(&case, Cause::ConfirmUnderWay, &POLICY, now());
    assert_eq!(wanted.queues, ["logistics.orders"]);
    assert_eq!(wanted.marker_after, Some(overdue.missing_after));
}

use proptest::prelude::*;
use strum::VariantArray as _;

use super::*;
use crate::rules::fixture::{self, NOW, in_s, name, now, recorded, state};
use crate::rules::overdue::Word;
use crate::rules::states::is_step;

/// Long, so that no wait is cut short.
const POLICY: Policy = Policy { park_after: Duration::from_secs(24 * 60 * 60), ..fixture::POLICY };

fn asking(resends: u32, calls_not_made: u32) -> Overdue {
    Overdue { resends, calls_not_made, ..fixture::overdue(StateName::Asking) }
}

fn confirmed(by: &str) -> Recorded {
    Recorded { confirmed: vec![name(by)], ..Recorded::default() }
}

fn rejected() -> Recorded {
    recorded(&[], &[("logistics", Word::Rejected)])
}

fn answers() -> [(Answer, bool); 9] {
    let text = || "so it says".to_owned();
    [
        (Answer::Republished { at: None }, true),
        (Answer::Unanswered { why: text() }, true),
        (Answer::InProgress { retry_after: Duration::from_secs(7) }, false),
        (Answer::NotPublished { reason: text() }, false),
        (Answer::NotAsked { why: text() }, false),
        (Answer::Misdirected { why: text(), is_other_upstream: false }, false),
        (Answer::NeverCommitted, true),
        (Answer::Withdrawn { reason: text() }, true),
        (Answer::Unknown { reason: text() }, true),
    ]
}

fn after(overdue: &Overdue, recorded: &Recorded, answer: &Answer) -> Option<Transition> {
    after_answer(overdue, recorded, answer, &POLICY, now(), 0.0)
}

#[test]
fn only_what_may_have_happened_uses_up_an_attempt() {
    for (answer, used) in answers() {
        let change = after(&asking(2, 0), &Recorded::default(), &answer).unwrap();
        let expected = if used { (2, 0) } else { (1, 1) };
        assert_eq!((change.resends, change.calls_not_made), expected, "{answer:?}");
    }
    let again =
        after(&asking(2, 5), &Recorded::default(), &Answer::Republished { at: None }).unwrap();
    assert_eq!(again.calls_not_made, 0, "the count of calls not made begins anew");
}

#[test]
fn a_resend_that_cannot_have_left_gives_the_rate_limit_s_token_back() {
    let may_have_sent = answers().map(|(answer, _)| answer.may_have_sent());
    assert_eq!(may_have_sent, [true, true, false, false, false, false, false, false, false]);
}

#[test]
fn the_last_words_are_never_committed_withdrawn_and_unknown() {
    let is_last_word = answers().map(|(answer, _)| answer.is_last_word());
    assert_eq!(is_last_word, [false, false, false, false, false, false, true, true, true]);
}

#[test]
fn each_answer_leads_somewhere() {
    let waits = |seconds: i64| State::Waiting { due: in_s(seconds) };
    let expected = [
        waits(30),
        waits(30),
        waits(7),
        waits(30),
        waits(30),
        waits(30),
        State::NeverCommitted,
        State::Withdrawn,
        State::Parked,
    ];
    for ((answer, _), expected) in answers().iter().zip(expected) {
        let change = after(&asking(1, 0), &Recorded::default(), answer).unwrap();
        assert_eq!(change.to, expected, "{answer:?}");
        assert!(change.reason.contains("orders"), "{}", change.reason);
        assert!(is_step(change.from, change.to.name()), "{change:?}");
    }
}

#[test]
fn waits_double_up_to_their_limits() {
    let wait = |resends: u32, not_made: u32, answer: &Answer| {
        let change = after(&asking(resends, not_made), &Recorded::default(), answer).unwrap();
        change.to.due().unwrap().since(now()).as_secs()
    };
    let resends =
        [1, 2, 3, 4, 20].map(|resends| wait(resends, 0, &Answer::Republished { at: None }));
    assert_eq!(resends, [30, 60, 120, 240, 3_600]);
    let not_asked = Answer::NotAsked { why: String::new() };
    let not_made = [0, 1, 2, 3, 4, 99].map(|not_made| wait(1, not_made, &not_asked));
    assert_eq!(not_made, [30, 60, 120, 240, 300, 300]);
}

#[test]
fn what_an_upstream_says_of_its_patience_is_kept_within_bounds() {
    for (said_ms, waited_ms) in [(0, 1_000), (1_500, 1_500), (u64::MAX, 300_000)] {
        let answer = Answer::InProgress { retry_after: Duration::from_millis(said_ms) };
        let change = after(&asking(1, 0), &Recorded::default(), &answer).unwrap();
        assert_eq!(change.to.due().unwrap().ms() - NOW, waited_ms);
    }
}

#[test]
fn a_confirm_beats_every_answer_but_contradicts_never_committed() {
    for (answer, _) in answers() {
        let change = after(&asking(1, 0), &confirmed("logistics"), &answer).unwrap();
        let expected = match answer {
            Answer::NeverCommitted => State::Conflict,
            _ => State::Confirmed,
        };
        assert_eq!(change.to, expected, "{answer:?}");
    }
    let by_another = after(&asking(1, 0), &confirmed("audit"), &Answer::NeverCommitted);
    assert_eq!(by_another.unwrap().to, State::Conflict);
}

#[test]
fn a_rejection_parks_what_would_wait() {
    for (answer, _) in answers() {
        let change = after(&asking(1, 0), &rejected(), &answer).unwrap();
        let expected = match answer {
            Answer::NeverCommitted => State::NeverCommitted,
            Answer::Withdrawn { .. } => State::Withdrawn,
            _ => State::Parked,
        };
        assert_eq!(change.to, expected, "{answer:?}");
    }
}

#[test]
fn a_row_that_is_not_asked_for_any_more_hears_only_a_contradiction() {
    for of in StateName::VARIANTS.iter().copied().filter(|of| *of != StateName::Asking) {
        for (answer, _) in answers() {
            let row = Overdue { state: state(of), ..asking(1, 0) };
            let change = after(&row, &confirmed("logistics"), &answer);
            let contradicted = of == StateName::Confirmed && answer == Answer::NeverCommitted;
            assert_eq!(change.is_some(), contradicted, "{of}, {answer:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_wait_ends_after_now_and_not_long_after_giving_up(
        resends in 1_u32..50,
        not_made in 0_u32..50,
        jitter in 0.0_f64..=1.0,
        open_for_s in 0_i64..200_000,
        which in 0_usize..5,
    ) {
        let since = UnixMillis::from_ms(NOW - open_for_s * 1_000);
        let row = Overdue { since, ..asking(resends, not_made) };
        let answer = &answers()[which].0;
        let change = after_answer(&row, &Recorded::default(), answer, &POLICY, now(), jitter);
        let due = change.expect("it waits").to.due().expect("it waits");
        prop_assert!(due > now());
        let latest = row.gives_up(&POLICY).max(now().after(POLICY.resend_delay));
        prop_assert!(due <= latest);
    }
}

use countersign_protocol::Name;

use super::*;
use crate::rules::fixture::{self, NOW, now};

const OLDEST: UnixMillis = UnixMillis::from_ms(0);

fn job(step: u64, items: u64, begun: u64, succeeded: u64, failed: u64) -> Job {
    let ended = Ended { succeeded, failed, skipped: 0 };
    Job {
        id: Uuid::nil(),
        action: Action::Resend,
        state: JobState::Running,
        reason: String::new(),
        who: "ada".to_owned(),
        why: "the consumer is mended".to_owned(),
        created_at: now(),
        ended_at: None,
        rate: None,
        begins_at: None,
        step,
        items,
        items_kept: true,
        begun,
        ended,
    }
}

#[test]
fn canaries_go_first_and_the_rest_when_they_have_ended_well() {
    let stops = |next: Next| matches!(next, Next::Stop(_));
    for (what, job, expected) in [
        ("at first one", job(1, 100, 0, 0, 0), Next::Begin(1)),
        ("its outcome is waited for", job(1, 100, 1, 0, 0), Next::Wait),
        ("it succeeded", job(1, 100, 0, 1, 0), Next::Step(5)),
        ("four more", job(5, 100, 0, 1, 0), Next::Begin(4)),
        ("some have not ended", job(5, 100, 2, 3, 0), Next::Wait),
        ("one of five may fail", job(5, 100, 0, 4, 1), Next::Step(25)),
        ("some of the step are waited for", job(25, 100, 5, 10, 10), Next::Wait),
        ("five of 25 may fail", job(25, 100, 0, 20, 5), Next::Step(0)),
        ("all", job(0, 100, 0, 20, 4), Next::Begin(u64::MAX)),
        ("few of all have ended", job(0, 100, 10, 0, 24), Next::Begin(u64::MAX)),
        ("fewer than a step", job(5, 3, 0, 1, 0), Next::Begin(4)),
        ("nothing is left", job(5, 3, 0, 3, 0), Next::End),
        ("the last are waited for", job(5, 3, 1, 2, 0), Next::Wait),
    ] {
        assert_eq!(job.next(now()), expected, "{what}");
    }
    for (what, job) in [
        ("the first failed", job(1, 100, 0, 0, 1)),
        ("two of five failed", job(5, 100, 0, 3, 2)),
        ("six of 25 failed", job(25, 100, 0, 19, 6)),
        ("a third of those that ended failed", job(0, 100, 50, 20, 10)),
    ] {
        assert!(stops(job.next(now())), "{what}: {:?}", job.next(now()));
    }
}

#[test]
fn what_does_not_run_leaves_the_rest_out_and_waits_for_what_is_begun() {
    for state in [JobState::Cancelled, JobState::Stopped] {
        let of = |items, begun| Job { state, ..job(25, items, begun, 5, 5) };
        assert_eq!(of(100, 3).next(now()), Next::Skip);
        assert_eq!(of(13, 3).next(now()), Next::Wait);
        assert_eq!(of(10, 0).next(now()), Next::End);
    }
}

#[test]
fn a_rate_is_kept_and_not_made_up_for() {
    let at = |rate: f64, waited_ms: i64| {
        let begins_at = Some(UnixMillis::from_ms(NOW - waited_ms));
        Job { rate: Some(rate), begins_at, ..job(0, 1_000, 0, 0, 0) }
    };
    for (rate, waited_ms, expected) in [
        (10.0, -1, Next::Wait),
        (10.0, 0, Next::Begin(1)),
        (10.0, 99, Next::Begin(1)),
        (10.0, 200, Next::Begin(3)),
        (10.0, 3_600_000, Next::Begin(11)),
        (0.1, 0, Next::Begin(1)),
        (0.1, 3_600_000, Next::Begin(1)),
    ] {
        assert_eq!(at(rate, waited_ms).next(now()), expected, "{rate}/s, {waited_ms} ms");
    }
    let next = |job: &Job, begun| job.begins_next(begun, now()).unwrap().ms() - NOW;
    assert_eq!(next(&at(10.0, 0), 1), 100);
    assert_eq!(next(&at(0.1, 0), 1), 10_000);
    assert_eq!(next(&at(10.0, 3_600_000), 11), 100, "not an hour's worth");
    let first = Job { begins_at: None, ..at(10.0, 0) };
    assert_eq!(first.next(now()), Next::Begin(1));
}

fn row(state: StateName) -> Overdue {
    Overdue { resends: 3, calls_not_made: 2, ..fixture::overdue(state) }
}

#[test]
fn each_action_begins_as_the_row_allows() {
    use ItemState::{Begun, Skipped, Succeeded};
    for (action, expected) in [
        (Action::Resend, [Begun, Begun, Begun, Skipped, Skipped, Skipped, Skipped, Skipped]),
        (
            Action::Close,
            [Succeeded, Succeeded, Succeeded, Skipped, Skipped, Skipped, Succeeded, Skipped],
        ),
        (Action::Note, [Succeeded; 8]),
    ] {
        let job = Job { action, ..job(0, 1, 0, 0, 0) };
        for (state, expected) in StateName::VARIANTS.iter().copied().zip(expected) {
            let begun = job.begin(Some(&row(state)), &Recorded::default(), now(), OLDEST);
            assert_eq!(begun.state, expected, "{action:?}, {state}");
            assert!(!begun.result.is_empty());
            let grants =
                action == Action::Resend && matches!(state, StateName::Waiting | StateName::Parked);
            assert_eq!(begun.grant, grants.then_some(4), "{action:?}, {state}");
            let changes = grants || (action == Action::Close && expected == Succeeded);
            assert_eq!(begun.transition.is_some(), changes, "{action:?}, {state}");
        }
    }
}

#[test]
fn what_is_confirmed_meanwhile_is_settled_and_left_out() {
    let logistics: Name = "logistics".parse().unwrap();
    let recorded = Recorded { confirmed: vec![logistics], ..Recorded::default() };
    for action in [Action::Resend, Action::Close] {
        let job = Job { action, ..job(0, 1, 0, 0, 0) };
        let begun = job.begin(Some(&row(StateName::Parked)), &recorded, now(), OLDEST);
        assert_eq!(begun.state, ItemState::Skipped);
        assert_eq!(begun.transition.unwrap().to, State::Confirmed);
        let unknown = job.begin(None, &recorded, now(), OLDEST);
        assert_eq!(unknown.result, "confirmed by logistics");
        let unknown = job.begin(None, &Recorded::default(), now(), OLDEST);
        assert_eq!(unknown.state, ItemState::Skipped);
    }
}

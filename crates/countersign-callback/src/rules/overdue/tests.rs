use countersign_protocol::DatabaseId;
use uuid::Uuid;

use super::*;
use crate::rules::fixture::{POLICY, name, names, now, overdue};
use crate::rules::states::is_step;

fn database(number: u128) -> DatabaseId {
    DatabaseId::from_uuid(Uuid::from_u128(number))
}

fn further(consumers: &[&str], origin: Origin) -> FurtherCheck {
    FurtherCheck { consumers: names(consumers), origin }
}

#[test]
fn a_further_check_adds_its_consumers_to_an_open_row_and_opens_a_confirmed_one() {
    let check = further(&["billing"], Origin::Unnamed);
    for (state, opens) in [
        (StateName::Waiting, Some(false)),
        (StateName::Asking, Some(false)),
        (StateName::Parked, Some(false)),
        (StateName::Confirmed, Some(true)),
        (StateName::NeverCommitted, None),
        (StateName::Withdrawn, None),
        (StateName::Conflict, None),
        (StateName::ClosedByHand, None),
    ] {
        let corrected = overdue(state).united(&check, &POLICY, now());
        assert_eq!(corrected.as_ref().map(|c| c.opened.is_some()), opens, "{state:?}");
        let Some(corrected) = corrected else { continue };
        assert_eq!(corrected.consumers, names(&["billing", "logistics"]));
        if let Some(opened) = corrected.opened {
            assert!(is_step(opened.from, opened.to.name()), "{opened:?}");
        }
    }
    let same = further(&["logistics"], Origin::Unnamed);
    assert_eq!(overdue(StateName::Confirmed).united(&same, &POLICY, now()), None);
}

#[test]
fn the_consumers_of_many_checks_stay_within_what_one_message_may_have() {
    let many: Vec<String> = (0..40).map(|n| format!("consumer-{n:02}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let check = further(&many, Origin::Unnamed);
    let corrected = overdue(StateName::Waiting).united(&check, &POLICY, now()).unwrap();
    assert_eq!(corrected.consumers.len(), MAX_CONSUMERS);
    assert!(corrected.consumers.contains(&name("logistics")), "those of the first check stay");
}

#[test]
fn two_databases_are_a_dispute_and_the_upstreams_records_settle_it() {
    let mut row = overdue(StateName::Waiting);
    row.origin = Origin::Database(database(1));
    let other = further(&["logistics"], Origin::Database(database(2)));
    let corrected = row.united(&other, &POLICY, now()).unwrap();
    assert_eq!((corrected.origin, corrected.opened), (Origin::Disputed, None));
    row.origin = Origin::Disputed;
    assert_eq!(row.united(&other, &POLICY, now()), None, "it stays one");
    let corrected = row.committed_in(Some(database(2)), &POLICY, now()).unwrap();
    assert_eq!(corrected.origin, Origin::Database(database(2)));
    assert_eq!((corrected.conflict, corrected.opened), (None, None), "the row is open already");
    row.origin = Origin::Database(database(2));
    assert_eq!(row.committed_in(Some(database(2)), &POLICY, now()), None);
}

#[test]
fn what_was_denied_and_is_committed_opens_again_by_way_of_a_conflict_with_resends_of_its_own() {
    for (state, conflicts) in [(StateName::NeverCommitted, true), (StateName::Conflict, false)] {
        let mut row = overdue(state);
        row.resends = 3;
        let corrected = row.committed_in(None, &POLICY, now()).unwrap();
        assert_eq!(corrected.conflict.is_some(), conflicts);
        let opened = corrected.opened.unwrap();
        for step in corrected.conflict.iter().chain([&opened]) {
            assert!(is_step(step.from, step.to.name()), "{step:?}");
        }
        assert_eq!(opened.to, State::Waiting { due: now() });
        assert_eq!(corrected.granted, 3 + POLICY.max_resends);
    }
    for state in [StateName::Confirmed, StateName::Withdrawn, StateName::ClosedByHand] {
        assert_eq!(overdue(state).committed_in(Some(database(1)), &POLICY, now()), None);
    }
}

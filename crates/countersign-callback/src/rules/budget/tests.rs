use proptest::prelude::*;

use super::*;
use crate::rules::fixture;

const PACING: Pacing = Pacing { per_second: 100, missing_share: MISSING_SHARE };
/// So much time between decisions that the budget does not matter.
const LONG: Duration = Duration::from_secs(1);

fn calm() -> Pace {
    Pace { tokens: 25.0, storm: Storm::Absent }
}

fn storm(canaries: u32) -> Pace {
    Pace { tokens: 25.0, storm: Storm::CanariesOnly { canaries } }
}

fn tally(looked_up: u64, unconfirmed: u64, missing: u64, not_missing: u64) -> Tally {
    Tally { looked_up, unconfirmed, missing, not_missing }
}

fn scene(tally: Tally, asking: u32, unconfirmed: u32, lost: u32, wanted: u32) -> Scene {
    Scene { elapsed: LONG, tally, asking, unconfirmed, lost, wanted }
}

#[test]
fn each_scene_has_its_storm() {
    let much = tally(1_000, 300, 5, 0);
    #[rustfmt::skip]
    let cases = [
        ("one message is lost in a quiet system",
            calm(), scene(tally(1, 1, 0, 0), 0, 0, 0, 1), 25, Storm::Absent),
        ("nothing but lost messages, and too few to tell",
            calm(), scene(tally(49, 49, 20, 0), 0, 20, 0, 29), 25, Storm::Absent),
        ("many are unconfirmed, and nobody knows why",
            calm(), scene(tally(50, 11, 0, 0), 0, 0, 0, 11), 5, Storm::Absent),
        ("a few are being asked for to find out",
            calm(), scene(tally(50, 11, 0, 0), 3, 3, 0, 8), 2, Storm::Absent),
        ("a few were asked for, some answers are not in yet",
            calm(), scene(tally(50, 11, 2, 1), 2, 4, 0, 6), 0, Storm::Absent),
        ("they were missing",
            calm(), scene(much, 0, 5, 0, 100), 0, Storm::CanariesOnly { canaries: 5 }),
        ("they were missing, and have been confirmed since",
            calm(), scene(much, 0, 0, 0, 100), 5, Storm::CanariesOnly { canaries: 5 }),
        ("they were rolled back",
            calm(), scene(tally(1_000, 300, 0, 5), 0, 0, 0, 100), 25, Storm::Absent),
        ("most were rolled back",
            calm(), scene(tally(1_000, 300, 60, 240), 0, 0, 0, 100), 25, Storm::Absent),
        ("less than a fifth is unconfirmed",
            calm(), scene(tally(1_000, 200, 200, 0), 0, 0, 0, 100), 25, Storm::Absent),
        ("the canaries are unconfirmed",
            storm(5), scene(much, 0, 5, 0, 100), 0, Storm::CanariesOnly { canaries: 5 }),
        ("three canaries were confirmed",
            storm(8), scene(much, 0, 2, 0, 100), 6, Storm::CanariesOnly { canaries: 8 }),
        ("a canary came due again",
            storm(8), scene(much, 0, 2, 1, 100), 2, Storm::CanariesOnly { canaries: 4 }),
        ("all canaries came due again",
            storm(8), scene(much, 0, 0, 8, 100), 1, Storm::CanariesOnly { canaries: 1 }),
        ("very many came due again",
            storm(8), scene(much, 0, 0, 900, 100), 1, Storm::CanariesOnly { canaries: 1 }),
        ("enough canaries were confirmed",
            storm(120), scene(much, 0, 7, 0, 100), 25, Storm::Waning { canaries: 100 }),
        ("the share has fallen",
            storm(5), scene(tally(1_000, 100, 60, 0), 0, 5, 0, 100), 25, Storm::Absent),
        ("the share has fallen a little",
            storm(5), scene(tally(1_000, 150, 60, 0), 0, 5, 0, 100), 0, Storm::CanariesOnly { canaries: 5 }),
        ("no more checks come, and the canaries are unconfirmed",
            storm(5), scene(tally(0, 0, 0, 0), 0, 5, 0, 100), 0, Storm::CanariesOnly { canaries: 5 }),
        ("no more checks come, and what is left fits",
            storm(12), scene(tally(0, 0, 0, 0), 0, 5, 0, 7), 25, Storm::Absent),
        ("no more checks come, and nothing is left",
            storm(1), scene(tally(0, 0, 0, 0), 0, 0, 0, 0), 25, Storm::Absent),
        ("a waning storm, and one that was lost again",
            Pace { tokens: 25.0, storm: Storm::Waning { canaries: 100 } },
            scene(much, 0, 90, 1, 100), 25, Storm::Waning { canaries: 50 }),
        ("a waning storm, and several that were lost again",
            Pace { tokens: 25.0, storm: Storm::Waning { canaries: 100 } },
            scene(much, 0, 90, 3, 100), 0, Storm::CanariesOnly { canaries: 12 }),
        ("a waning storm that is over",
            Pace { tokens: 25.0, storm: Storm::Waning { canaries: 100 } },
            scene(tally(1_000, 10, 60, 0), 0, 90, 0, 100), 25, Storm::Absent),
    ];
    for (what, stored, scene, may_ask, storm) in cases {
        let decision = decide(stored, &scene, &PACING);
        assert_eq!((decision.may_ask, decision.pace.storm), (may_ask, storm), "{what}");
        let was_storm = matches!(stored.storm, Storm::CanariesOnly { .. });
        let is_storm = matches!(storm, Storm::CanariesOnly { .. });
        assert_eq!(decision.change.is_some(), was_storm != is_storm, "{what}");
    }
}

#[test]
fn each_confirmed_resend_of_an_open_row_lets_one_more_canary_be_asked_for() {
    let open = |resends, from| Transition { resends, ..fixture::overdue(from).settled() };
    let parked = Transition { to: State::Parked, ..open(1, StateName::Waiting) };
    let transitions = [
        open(1, StateName::Waiting),
        open(2, StateName::Asking),
        open(0, StateName::Waiting),
        open(1, StateName::Parked),
        parked,
    ];
    let upstream = transitions[0].key.upstream.clone();
    assert_eq!(confirmed_canaries(&transitions), [(upstream, 2)].into());
    assert_eq!(confirmed_canaries(&transitions[2..]), BTreeMap::new());
}

#[test]
fn without_a_storm_the_budget_decides() {
    for (per_second, tokens, elapsed_ms, may_ask) in [
        (100, 0.0, 0, 0),
        (100, 0.0, 10, 1),
        (100, 0.9, 1, 1),
        (100, 0.0, 100, 10),
        (100, 3.5, 100, 13),
        (100, 0.0, 100_000, 25),
        (1, 0.0, 999, 0),
        (1, 0.0, 1_000, 1),
        (1, 1.0, 60_000, 1),
        (100_000, 0.0, 60_000, 25_000),
    ] {
        let pacing = Pacing { per_second, ..PACING };
        let stored = Pace { tokens, storm: Storm::Absent };
        let scene = Scene {
            elapsed: Duration::from_millis(elapsed_ms),
            wanted: 99_999,
            ..Scene::default()
        };
        let decision = decide(stored, &scene, &pacing);
        assert_eq!(decision.may_ask, may_ask, "{per_second}, {tokens}, {elapsed_ms}");
    }
}

#[test]
fn confirmed_canaries_double_with_each_round_trip() {
    let mut pace = calm();
    let mut left = 3_000;
    let mut asked = Vec::new();
    let mut answers = 0;
    loop {
        let seen = scene(tally(10_000, 3_000, answers, 0), 0, 0, 0, left);
        let decision = decide(pace, &seen, &Pacing { per_second: 1_000, ..PACING });
        let Decision { may_ask, pace: next, .. } = decision;
        pace = next;
        asked.push(may_ask);
        left -= may_ask;
        answers += u64::from(may_ask);
        // The round trip: all are confirmed.
        match &mut pace.storm {
            Storm::CanariesOnly { canaries } => *canaries += may_ask,
            Storm::Absent => {}
            Storm::Waning { .. } => break,
        }
    }
    assert_eq!(asked, [5, 5, 10, 20, 40, 80, 160, 250, 250, 250, 250]);
}

fn any_storm() -> impl Strategy<Value = Storm> {
    prop_oneof![
        Just(Storm::Absent),
        (1_u32..2_000).prop_map(|canaries| Storm::CanariesOnly { canaries }),
        (1_u32..2_000).prop_map(|canaries| Storm::Waning { canaries }),
    ]
}

proptest! {
    #[test]
    fn it_never_asks_for_more_than_it_may_and_never_stops_for_good(
        (storm, tokens) in (any_storm(), 0.0..30_000.0),
        per_second in 1_u32..100_000,
        looked_up in 0_u64..10_000, part in 0.0..=1.0_f64, missing in 0_u64..50, not in 0_u64..50,
        (asking, resent, lost) in (0_u32..300, 0_u32..300, 0_u32..300),
        wanted in 0_u32..500,
        elapsed_ms in 0_u64..10_000,
    ) {
        let unconfirmed = (looked_up as f64 * part) as u64;
        let elapsed = Duration::from_millis(elapsed_ms);
        let seen = Scene {
            elapsed,
            ..scene(tally(looked_up, unconfirmed, missing, not), asking, asking + resent, lost, wanted)
        };
        let pacing = Pacing { per_second, ..PACING };
        let Decision { may_ask, pace, pause, .. } = decide(Pace { tokens, storm }, &seen, &pacing);
        prop_assert!(f64::from(may_ask) <= pace.tokens);
        prop_assert!(pace.tokens <= pacing.burst());
        prop_assert!(pause >= SHORTEST_PAUSE && pause <= LONGEST_PAUSE);
        if let Storm::CanariesOnly { canaries } = pace.storm {
            prop_assert!(canaries >= 1);
            prop_assert!(may_ask == 0 || may_ask + seen.unconfirmed <= canaries);
        }
        // When nothing is under way, the next one is asked for after a second at the latest.
        let idle = Scene { asking: 0, unconfirmed: 0, elapsed: LONG, ..seen };
        prop_assert!(decide(pace, &idle, &pacing).may_ask >= 1);
    }
}

//! How many resends an upstream may be asked for now: its budget, and the canaries.
//!
//! The budget is a token bucket: what an upstream sends again reaches consumers on top of what they
//! have to do anyway.
//!
//! When much is missing at once, something is wrong that resends may not mend: a consumer that
//! cannot confirm, a queue that leads nowhere. Then only a few are asked for, the canaries, and each
//! one that is confirmed lets one more be asked for at the same time, so that their number doubles
//! with each round trip, as in the slow start of TCP (RFC 5681). One that comes due again
//! unconfirmed halves it.
//!
//! How much is missing is not known before it has been asked for: a check without a confirm may be
//! one of a transaction that was rolled back. So it is estimated: the share of unconfirmed checks
//! among all that came due lately, times the share of those answers that said "it was missing".

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_protocol::Name;

use crate::rules::overdue::Transition;
use crate::rules::states::{State, StateName};

/// What an upstream may be asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pacing {
    /// How many resends a second. From 1.
    pub per_second: u32,
    /// When more than this share of the checks of the last minute is missing, only canaries are asked
    /// for. 1 is never.
    pub missing_share: f64,
}

/// When only canaries are asked for, unless a test says otherwise.
pub(crate) const MISSING_SHARE: f64 = 0.2;

/// Fewer checks in a minute than this say nothing about the share that is missing.
const FEWEST_CHECKS: u64 = 50;

/// Fewer answers than this say nothing about what is behind unconfirmed checks.
const FEWEST_ANSWERS: u64 = 5;

/// The canaries of the beginning.
const FIRST_CANARIES: u32 = 5;

/// So many canaries hold nothing back, however low the budget.
const MANY_CANARIES: u32 = 20;

/// How much of a second's budget may be saved up: a few lost messages are asked for at once, and the
/// rate that a consumer sees is hardly more than the budget over any second.
const SAVED_UP: Duration = Duration::from_millis(250);

/// How long a replica pauses an upstream, at least and at most, that was asked for as much as it may be.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often it is looked whether canaries were confirmed.
const CANARIES_PAUSE: Duration = Duration::from_millis(100);

/// What is stored about an upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    /// How many resends it may be asked for.
    pub(crate) tokens: f64,
    /// Whether there is a storm.
    pub(crate) weather: Weather,
}

/// Whether much is missing at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// It is not.
    Calm,
    /// It is: no more than so many resends may be unconfirmed at once.
    Storm {
        /// So many.
        canaries: u32,
    },
    /// It is, and so many resends were confirmed that no more is held back.
    Waning {
        /// How many could be unconfirmed at once, if it were a storm again.
        canaries: u32,
    },
}

/// What is going on just now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Scene {
    /// The time since the last decision.
    pub(crate) elapsed: Duration,
    /// What became of the checks of the last minute.
    pub(crate) tally: Tally,
    /// How many resends are being asked for.
    pub(crate) asking: u32,
    /// How many were asked for and are not confirmed, nor due again; these included.
    pub(crate) unconfirmed: u32,
    /// How many came due again unconfirmed since the last decision.
    pub(crate) lost: u32,
    /// How many are due and want to be asked for.
    pub(crate) wanted: u32,
}

/// What became of checks. Numbers of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Checks that came due.
    pub(crate) looked_up: u64,
    /// Of these, the messages that became overdue.
    pub(crate) unconfirmed: u64,
    /// Answers that say that it was missing.
    pub(crate) missing: u64,
    /// Answers that say that there was nothing to miss.
    pub(crate) not_missing: u64,
}

/// What an upstream may be asked for, and what is to be stored about that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Decision {
    /// How many resends.
    pub(crate) may_ask: u32,
    /// To be stored, less a token for each resend that is asked for.
    pub(crate) pace: Pace,
    /// Worth a line in the log.
    pub(crate) change: Option<Change>,
    /// How long the replica pauses it if it is asked for as many as it may, and more are wanted.
    pub(crate) pause: Duration,
}

/// The beginning or the end of a storm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    /// Only canaries are asked for.
    Begun {
        /// The share of the checks that is missing, from 0 to 1.
        share: f64,
    },
    /// Nothing is held back any more.
    Over {
        /// How many canaries there were in the end.
        canaries: u32,
    },
}

impl Pace {
    /// Less the tokens of resends that are asked for.
    #[must_use]
    pub(crate) fn spend(self, resends: u32) -> Self {
        Self { tokens: (self.tokens - f64::from(resends)).max(0.0), ..self }
    }
}

impl Weather {
    /// How many resends may be unconfirmed at once, unless it is calm.
    #[must_use]
    pub(crate) fn canaries(self) -> Option<u32> {
        match self {
            Self::Calm => None,
            Self::Storm { canaries } | Self::Waning { canaries } => Some(canaries),
        }
    }
}

impl Pacing {
    /// The most tokens there are.
    #[must_use]
    pub(crate) fn burst(&self) -> f64 {
        (f64::from(self.per_second) * SAVED_UP.as_secs_f64()).max(1.0)
    }

    /// So many canaries hold nothing back.
    #[must_use]
    pub(crate) fn enough_canaries(&self) -> u32 {
        self.per_second.max(MANY_CANARIES)
    }
}

/// How many more resends of each upstream may be unconfirmed at once while only canaries are asked for:
/// each resend that these transitions find confirmed, of a row that was not parked, lets one more be
/// asked for.
#[must_use]
pub(crate) fn confirmed_canaries(transitions: &[Transition]) -> BTreeMap<Name, u32> {
    let mut confirmed = BTreeMap::new();
    for Transition { key, from, to, resends, .. } in transitions {
        let was_open = matches!(from, StateName::Waiting | StateName::Asking);
        if was_open && *to == State::Confirmed && *resends >= 1 {
            *confirmed.entry(key.upstream.clone()).or_default() += 1;
        }
    }
    confirmed
}

/// Decides what an upstream may be asked for.
#[must_use]
pub(crate) fn decide(stored: Pace, scene: &Scene, pacing: &Pacing) -> Decision {
    let added = f64::from(pacing.per_second) * scene.elapsed.as_secs_f64();
    let tokens = (stored.tokens + added).clamp(0.0, pacing.burst());
    let weather = forecast(stored.weather, scene, pacing);
    let held_back = match weather {
        Weather::Storm { canaries } => Some(canaries.saturating_sub(scene.unconfirmed)),
        Weather::Calm => first_canaries(scene, pacing),
        Weather::Waning { .. } => None,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0, and no more than a burst"
    )]
    let affordable = tokens as u32;
    let may_ask = held_back.map_or(affordable, |canaries| canaries.min(affordable));
    let pause = if may_ask < affordable {
        CANARIES_PAUSE
    } else {
        let until_half_full = (pacing.burst() / 2.0).max(1.0) / f64::from(pacing.per_second);
        Duration::from_secs_f64(until_half_full).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    };
    let change = match (stored.weather, weather) {
        (Weather::Calm | Weather::Waning { .. }, Weather::Storm { .. }) => {
            Some(Change::Begun { share: missing_share(&scene.tally) })
        }
        (Weather::Storm { canaries }, Weather::Calm | Weather::Waning { .. }) => {
            Some(Change::Over { canaries })
        }
        _ => None,
    };
    Decision { may_ask, pace: Pace { tokens, weather }, change, pause }
}

fn forecast(weather: Weather, scene: &Scene, pacing: &Pacing) -> Weather {
    let enough = pacing.enough_canaries();
    let share = missing_share(&scene.tally);
    let few_checks = scene.tally.looked_up < FEWEST_CHECKS;
    match weather {
        Weather::Calm if is_known(&scene.tally) && share > pacing.missing_share => {
            Weather::Storm { canaries: FIRST_CANARIES }
        }
        Weather::Calm => Weather::Calm,
        Weather::Storm { canaries } => {
            let canaries = halved(canaries, scene.lost);
            // A storm in which nothing comes in any more ends when what is left need not wait.
            let all_fits = scene.wanted.saturating_add(scene.unconfirmed) <= canaries;
            if (!few_checks && share <= pacing.missing_share / 2.0) || (few_checks && all_fits) {
                Weather::Calm
            } else if canaries >= enough {
                Weather::Waning { canaries: enough }
            } else {
                Weather::Storm { canaries }
            }
        }
        Weather::Waning { canaries } => {
            let canaries = halved(canaries.min(enough), scene.lost);
            if few_checks || share <= pacing.missing_share / 2.0 {
                Weather::Calm
            } else if canaries < enough / 4 {
                Weather::Storm { canaries }
            } else {
                Weather::Waning { canaries }
            }
        }
    }
}

/// How many may be asked for to find out what is behind many unconfirmed checks. `None`: as many as
/// one likes.
fn first_canaries(scene: &Scene, pacing: &Pacing) -> Option<u32> {
    let answers = scene.tally.answers();
    let suspect = scene.tally.looked_up >= FEWEST_CHECKS
        && answers < FEWEST_ANSWERS
        && missing_share(&scene.tally) > pacing.missing_share;
    let answers = u32::try_from(answers).unwrap_or(u32::MAX);
    suspect.then(|| FIRST_CANARIES.saturating_sub(answers).saturating_sub(scene.asking))
}

/// The share of the checks whose messages are missing, as far as is known. Without enough answers:
/// the share of those that are unconfirmed.
fn missing_share(tally: &Tally) -> f64 {
    let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    let unconfirmed = share(tally.unconfirmed, tally.looked_up);
    if tally.answers() < FEWEST_ANSWERS {
        return unconfirmed;
    }
    unconfirmed * share(tally.missing, tally.answers())
}

fn is_known(tally: &Tally) -> bool {
    tally.looked_up >= FEWEST_CHECKS && tally.answers() >= FEWEST_ANSWERS
}

/// Halved so often, but not below 1.
fn halved(canaries: u32, times: u32) -> u32 {
    canaries.checked_shr(times).unwrap_or(0).max(1)
}

impl Tally {
    fn answers(&self) -> u64 {
        self.missing + self.not_missing
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.looked_up += other.looked_up;
        self.unconfirmed += other.unconfirmed;
        self.missing += other.missing;
        self.not_missing += other.not_missing;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::fixture;

    const PACING: Pacing = Pacing { per_second: 100, missing_share: MISSING_SHARE };
    /// So much time between decisions that the budget does not matter.
    const LONG: Duration = Duration::from_secs(1);

    fn calm() -> Pace {
        Pace { tokens: 25.0, weather: Weather::Calm }
    }

    fn storm(canaries: u32) -> Pace {
        Pace { tokens: 25.0, weather: Weather::Storm { canaries } }
    }

    fn tally(looked_up: u64, unconfirmed: u64, missing: u64, not_missing: u64) -> Tally {
        Tally { looked_up, unconfirmed, missing, not_missing }
    }

    fn scene(tally: Tally, asking: u32, unconfirmed: u32, lost: u32, wanted: u32) -> Scene {
        Scene { elapsed: LONG, tally, asking, unconfirmed, lost, wanted }
    }

    #[test]
    fn each_scene_has_its_weather() {
        let much = tally(1_000, 300, 5, 0);
        #[rustfmt::skip]
        let cases = [
            ("one message is lost in a quiet system",
                calm(), scene(tally(1, 1, 0, 0), 0, 0, 0, 1), 25, Weather::Calm),
            ("nothing but lost messages, and too few to tell",
                calm(), scene(tally(49, 49, 20, 0), 0, 20, 0, 29), 25, Weather::Calm),
            ("many are unconfirmed, and nobody knows why",
                calm(), scene(tally(50, 11, 0, 0), 0, 0, 0, 11), 5, Weather::Calm),
            ("a few are being asked for to find out",
                calm(), scene(tally(50, 11, 0, 0), 3, 3, 0, 8), 2, Weather::Calm),
            ("a few were asked for, some answers are not in yet",
                calm(), scene(tally(50, 11, 2, 1), 2, 4, 0, 6), 0, Weather::Calm),
            ("they were missing",
                calm(), scene(much, 0, 5, 0, 100), 0, Weather::Storm { canaries: 5 }),
            ("they were missing, and have been confirmed since",
                calm(), scene(much, 0, 0, 0, 100), 5, Weather::Storm { canaries: 5 }),
            ("they were rolled back",
                calm(), scene(tally(1_000, 300, 0, 5), 0, 0, 0, 100), 25, Weather::Calm),
            ("most were rolled back",
                calm(), scene(tally(1_000, 300, 60, 240), 0, 0, 0, 100), 25, Weather::Calm),
            ("less than a fifth is unconfirmed",
                calm(), scene(tally(1_000, 200, 200, 0), 0, 0, 0, 100), 25, Weather::Calm),
            ("the canaries are unconfirmed",
                storm(5), scene(much, 0, 5, 0, 100), 0, Weather::Storm { canaries: 5 }),
            ("three canaries were confirmed",
                storm(8), scene(much, 0, 2, 0, 100), 6, Weather::Storm { canaries: 8 }),
            ("a canary came due again",
                storm(8), scene(much, 0, 2, 1, 100), 2, Weather::Storm { canaries: 4 }),
            ("all canaries came due again",
                storm(8), scene(much, 0, 0, 8, 100), 1, Weather::Storm { canaries: 1 }),
            ("very many came due again",
                storm(8), scene(much, 0, 0, 900, 100), 1, Weather::Storm { canaries: 1 }),
            ("enough canaries were confirmed",
                storm(120), scene(much, 0, 7, 0, 100), 25, Weather::Waning { canaries: 100 }),
            ("the share has fallen",
                storm(5), scene(tally(1_000, 100, 60, 0), 0, 5, 0, 100), 25, Weather::Calm),
            ("the share has fallen a little",
                storm(5), scene(tally(1_000, 150, 60, 0), 0, 5, 0, 100), 0, Weather::Storm { canaries: 5 }),
            ("no more checks come, and the canaries are unconfirmed",
                storm(5), scene(tally(0, 0, 0, 0), 0, 5, 0, 100), 0, Weather::Storm { canaries: 5 }),
            ("no more checks come, and what is left fits",
                storm(12), scene(tally(0, 0, 0, 0), 0, 5, 0, 7), 25, Weather::Calm),
            ("no more checks come, and nothing is left",
                storm(1), scene(tally(0, 0, 0, 0), 0, 0, 0, 0), 25, Weather::Calm),
            ("a waning storm, and one that was lost again",
                Pace { tokens: 25.0, weather: Weather::Waning { canaries: 100 } },
                scene(much, 0, 90, 1, 100), 25, Weather::Waning { canaries: 50 }),
            ("a waning storm, and several that were lost again",
                Pace { tokens: 25.0, weather: Weather::Waning { canaries: 100 } },
                scene(much, 0, 90, 3, 100), 0, Weather::Storm { canaries: 12 }),
            ("a waning storm that is over",
                Pace { tokens: 25.0, weather: Weather::Waning { canaries: 100 } },
                scene(tally(1_000, 10, 60, 0), 0, 90, 0, 100), 25, Weather::Calm),
        ];
        for (what, stored, scene, may_ask, weather) in cases {
            let decision = decide(stored, &scene, &PACING);
            assert_eq!((decision.may_ask, decision.pace.weather), (may_ask, weather), "{what}");
            let was_storm = matches!(stored.weather, Weather::Storm { .. });
            let is_storm = matches!(weather, Weather::Storm { .. });
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
            let stored = Pace { tokens, weather: Weather::Calm };
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
            match &mut pace.weather {
                Weather::Storm { canaries } => *canaries += may_ask,
                Weather::Calm => {}
                Weather::Waning { .. } => break,
            }
        }
        assert_eq!(asked, [5, 5, 10, 20, 40, 80, 160, 250, 250, 250, 250]);
    }

    fn any_weather() -> impl Strategy<Value = Weather> {
        prop_oneof![
            Just(Weather::Calm),
            (1_u32..2_000).prop_map(|canaries| Weather::Storm { canaries }),
            (1_u32..2_000).prop_map(|canaries| Weather::Waning { canaries }),
        ]
    }

    proptest! {
        #[test]
        fn it_never_asks_for_more_than_it_may_and_never_stops_for_good(
            (weather, tokens) in (any_weather(), 0.0..30_000.0),
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
            let Decision { may_ask, pace, pause, .. } = decide(Pace { tokens, weather }, &seen, &pacing);
            prop_assert!(f64::from(may_ask) <= pace.tokens);
            prop_assert!(pace.tokens <= pacing.burst());
            prop_assert!(pause >= SHORTEST_PAUSE && pause <= LONGEST_PAUSE);
            if let Weather::Storm { canaries } = pace.weather {
                prop_assert!(canaries >= 1);
                prop_assert!(may_ask == 0 || may_ask + seen.unconfirmed <= canaries);
            }
            // When nothing is under way, the next one is asked for after a second at the latest.
            let idle = Scene { asking: 0, unconfirmed: 0, elapsed: LONG, ..seen };
            prop_assert!(decide(pace, &idle, &pacing).may_ask >= 1);
        }
    }
}

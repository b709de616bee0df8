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
    pub(crate) storm: Storm,
}

/// Whether much of an upstream's is missing at once, and what is held back because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storm {
    /// Little is missing.
    Absent,
    /// Much is missing: only canaries are asked for.
    CanariesOnly {
        /// How many resends may be unconfirmed at once.
        canaries: u32,
    },
    /// Much is missing, and enough canaries were confirmed: nothing is held back any more.
    Waning {
        /// How many resends could be unconfirmed at once, if resends were lost again.
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

impl Storm {
    /// How many resends may be unconfirmed at once. `None` without a storm.
    #[must_use]
    pub(crate) fn canaries(self) -> Option<u32> {
        match self {
            Self::Absent => None,
            Self::CanariesOnly { canaries } | Self::Waning { canaries } => Some(canaries),
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
    let storm = next_storm(stored.storm, scene, pacing);
    let held_back = match storm {
        Storm::CanariesOnly { canaries } => Some(canaries.saturating_sub(scene.unconfirmed)),
        Storm::Absent => first_canaries(scene, pacing),
        Storm::Waning { .. } => None,
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
    let change = match (stored.storm, storm) {
        (Storm::Absent | Storm::Waning { .. }, Storm::CanariesOnly { .. }) => {
            Some(Change::Begun { share: missing_share(&scene.tally) })
        }
        (Storm::CanariesOnly { canaries }, Storm::Absent | Storm::Waning { .. }) => {
            Some(Change::Over { canaries })
        }
        _ => None,
    };
    Decision { may_ask, pace: Pace { tokens, storm }, change, pause }
}

fn next_storm(storm: Storm, scene: &Scene, pacing: &Pacing) -> Storm {
    let enough = pacing.enough_canaries();
    let share = missing_share(&scene.tally);
    let few_checks = scene.tally.looked_up < FEWEST_CHECKS;
    match storm {
        Storm::Absent if is_known(&scene.tally) && share > pacing.missing_share => {
            Storm::CanariesOnly { canaries: FIRST_CANARIES }
        }
        Storm::Absent => Storm::Absent,
        Storm::CanariesOnly { canaries } => {
            let canaries = halved(canaries, scene.lost);
            // A storm in which nothing comes in any more ends when what is left need not wait.
            let all_fits = scene.wanted.saturating_add(scene.unconfirmed) <= canaries;
            if (!few_checks && share <= pacing.missing_share / 2.0) || (few_checks && all_fits) {
                Storm::Absent
            } else if canaries >= enough {
                Storm::Waning { canaries: enough }
            } else {
                Storm::CanariesOnly { canaries }
            }
        }
        Storm::Waning { canaries } => {
            let canaries = halved(canaries.min(enough), scene.lost);
            if few_checks || share <= pacing.missing_share / 2.0 {
                Storm::Absent
            } else if canaries < enough / 4 {
                Storm::CanariesOnly { canaries }
            } else {
                Storm::Waning { canaries }
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
mod tests;

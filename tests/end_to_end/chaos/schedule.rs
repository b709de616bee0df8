//! The blows and their moments: drawn from the seed alone, before anything starts.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

/// How long each test does harm, unless `CHAOS_SECONDS` says otherwise.
const SECONDS: u64 = 8;

/// The seed of this run.
pub(super) fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| number("CHAOS_SEED").unwrap_or_else(|| u64::from(fastrand::u32(..))))
}

/// How long to do harm.
pub(super) fn harm_lasts() -> Duration {
    Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(SECONDS))
}

#[expect(clippy::disallowed_methods, reason = "a test has no settings of its own")]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a whole number: {text:?}")))
}

/// The same draws for the same seed and test, whichever other tests run.
pub(super) fn random(seed: u64, test: &str) -> fastrand::Rng {
    let mut random = fastrand::Rng::with_seed(seed);
    for byte in test.bytes() {
        random = fastrand::Rng::with_seed(random.u64(..) ^ u64::from(byte));
    }
    random
}

/// One blow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strike {
    /// The time since the last blow's victims were started again, or were ready again.
    pub(super) after: Duration,
    /// Whether to wait until they were ready. If not, the blow may hit a service that is starting.
    pub(super) once_ready: bool,
    /// How long the blow lasts.
    pub(super) lasts: Duration,
    /// The victims, by their places in the list of possible victims.
    pub(super) victims: Vec<usize>,
    /// A number up to 100 for any further choice.
    pub(super) choice: u8,
}

/// The ranges that the blows of a test are drawn from.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// How many possible victims there are.
    pub(super) victims: usize,
    /// How many victims a blow hits at once.
    pub(super) at_once: usize,
    /// Milliseconds from one blow to the next.
    pub(super) after_ms: Range<u64>,
    /// Milliseconds that a blow lasts.
    pub(super) lasts_ms: Range<u64>,
}

impl Plan {
    /// The fewest blows of a test, however short.
    const FEWEST: usize = 3;

    /// Blows that take about this long, if their victims are back at once.
    pub(super) fn draw(&self, random: &mut fastrand::Rng, total: Duration) -> Vec<Strike> {
        let mut strikes: Vec<Strike> = Vec::new();
        let mut planned = Duration::ZERO;
        while strikes.len() < Self::FEWEST || planned < total {
            let mut victims: Vec<usize> = (0..self.victims).collect();
            random.shuffle(&mut victims);
            victims.truncate(self.at_once);
            let strike = Strike {
                after: Duration::from_millis(random.u64(self.after_ms.clone())),
                once_ready: random.u8(0..4) > 0,
                lasts: Duration::from_millis(random.u64(self.lasts_ms.clone())),
                victims,
                choice: random.u8(..=100),
            };
            planned += strike.after + strike.lasts;
            strikes.push(strike);
        }
        strikes
    }
}

#[test]
fn the_schedule_follows_from_the_seed_and_the_tests_name_alone() {
    let plan = Plan { victims: 3, at_once: 2, after_ms: 100..1_000, lasts_ms: 200..400 };
    let total = Duration::from_secs(20);
    let draw = |seed, test| plan.draw(&mut random(seed, test), total);
    assert_eq!(draw(1, "a"), draw(1, "a"));
    assert_ne!(draw(1, "a"), draw(2, "a"));
    assert_ne!(draw(1, "a"), draw(1, "b"));

    let strikes = draw(1, "a");
    let planned: Duration = strikes.iter().map(|strike| strike.after + strike.lasts).sum();
    assert!((20..22).contains(&planned.as_secs()), "{planned:?}");
    for strike in &strikes {
        assert_eq!(strike.victims.len(), 2, "{strike:?}");
        assert_ne!(strike.victims[0], strike.victims[1], "{strike:?}");
    }
    let short = plan.draw(&mut random(1, "a"), Duration::ZERO);
    assert_eq!(short.len(), Plan::FEWEST);
}

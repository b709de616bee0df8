//! How long after its arming a check comes due.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// A check delay for which the callback service keeps a wait queue.
///
/// One fixed delay per queue, because a TTL expires at a queue's head only: a shorter delay behind
/// a longer one would wait for it (<https://www.rabbitmq.com/docs/ttl#per-message-ttl-caveats>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tier(Duration);

/// Why a text is not a [`Tier`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a check delay: use a whole number and a unit, such as 500ms, 5s, 5m or 1h, from 100ms to 24h"
)]
pub struct InvalidTier(String);

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Tier {
    /// The tier of a delay from 100 ms to 24 h; fractions of a millisecond are cut off.
    ///
    /// # Errors
    /// When the delay is outside of that.
    pub fn new(delay: Duration) -> Result<Self, InvalidTier> {
        let whole = Duration::from_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        if (SHORTEST..=LONGEST).contains(&whole) {
            Ok(Self(whole))
        } else {
            Err(InvalidTier(humantime::format_duration(delay).to_string()))
        }
    }

    /// The delay.
    #[must_use]
    pub const fn delay(self) -> Duration {
        self.0
    }
}

impl FromStr for Tier {
    type Err = InvalidTier;

    fn from_str(text: &str) -> Result<Self, InvalidTier> {
        humantime::parse_duration(text)
            .ok()
            .and_then(|delay| Self::new(delay).ok())
            .ok_or_else(|| InvalidTier(text.to_owned()))
    }
}

/// In the largest unit that leaves no rest, so that `300s` and `5m` name the same queue.
impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u128, &str); 3] = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let ms = self.0.as_millis();
        let (size, unit) =
            UNITS.into_iter().find(|(size, _)| ms.is_multiple_of(*size)).unwrap_or((1, "ms"));
        write!(f, "{}{unit}", ms / size)
    }
}

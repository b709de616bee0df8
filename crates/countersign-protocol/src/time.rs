//! A moment, as the wire and the tables write it: milliseconds since 1970.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z. The field's doc says whose clock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(i64);

impl UnixMillis {
    /// 1970 itself.
    pub const EPOCH: Self = Self(0);

    /// The largest moment that a UUIDv7 can carry: 48 bits of milliseconds, in the year 10889.
    pub const MAX_IN_ID: Self = Self((1 << 48) - 1);

    /// A moment from its milliseconds since 1970.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// The milliseconds since 1970.
    #[must_use]
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// This much later; the largest moment there is, if that is too far.
    #[must_use]
    pub const fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(whole_ms(delay)))
    }

    /// This much earlier; the smallest moment there is, if that is too far.
    #[must_use]
    pub const fn before(self, delay: Duration) -> Self {
        Self(self.0.saturating_sub(whole_ms(delay)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let ms = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The longest delay that an i64 can say stands for every longer one.
const fn whole_ms(delay: Duration) -> i64 {
    let ms = delay.as_millis();
    if ms < i64::MAX as u128 { ms as i64 } else { i64::MAX }
}

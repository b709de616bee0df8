//! Which arming of a message a check is of.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

/// One arming: drawn at random when a message's check is armed for a transaction, and carried by that
/// check alone.
///
/// An id can be armed again, after a rollback for example, by this process or another, and then be
/// committed. "Rolled back" is said of an arming, not of an id, so that it is never taken for a word
/// about the other one, whatever the clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arming(u64);

/// Why a text is no [`Arming`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not 16 lower-case hexadecimal digits")]
pub struct InvalidArming;

/// The length of its text, in characters.
const DIGITS: usize = 16;

impl Arming {
    /// The arming of this number, which has to be random.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its number.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl FromStr for Arming {
    type Err = InvalidArming;

    fn from_str(text: &str) -> Result<Self, InvalidArming> {
        let is_digit = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != DIGITS || !text.bytes().all(is_digit) {
            return Err(InvalidArming);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| InvalidArming)
    }
}

impl fmt::Display for Arming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Arming {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

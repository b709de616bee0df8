//! The number that tells one arming of a message from another.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

/// One arming: drawn at random when a message's check is armed for a transaction, and carried by that
/// check alone.
///
/// An id can be armed again, after a rollback for example, by this process or another, and then be
/// committed. A rolled-back notice names an arming, not an id alone, so that it never settles the check of
/// another arming, whatever the clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArmingId(u64);

/// Why a text is no [`ArmingId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not 16 lower-case hexadecimal digits")]
pub struct InvalidArmingId;

/// The length of its text, in characters.
const DIGITS: usize = 16;

impl ArmingId {
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

impl FromStr for ArmingId {
    type Err = InvalidArmingId;

    fn from_str(text: &str) -> Result<Self, InvalidArmingId> {
        let is_digit = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != DIGITS || !text.bytes().all(is_digit) {
            return Err(InvalidArmingId);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| InvalidArmingId)
    }
}

impl fmt::Display for ArmingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for ArmingId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

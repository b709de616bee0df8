//! The name of an upstream or a consumer.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use thiserror::Error;

/// The name of an upstream or a consumer: `[a-z0-9][a-z0-9._-]{0,63}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a name: use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"
)]
pub struct InvalidName(String);

/// The longest name, in characters (all of them are one byte).
pub const MAX_NAME_LENGTH: usize = 64;

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let first_is_right = text.bytes().next().is_some_and(is_alphanumeric);
        let rest_is_right =
            text.bytes().all(|b| is_alphanumeric(b) || matches!(b, b'.' | b'_' | b'-'));
        if first_is_right && rest_is_right && text.len() <= MAX_NAME_LENGTH {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName(text.chars().take(MAX_NAME_LENGTH + 1).collect()))
        }
    }
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

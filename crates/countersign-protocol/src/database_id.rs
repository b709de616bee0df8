//! The identity of an upstream's database.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;
use uuid::Uuid;

/// The identity of the database that holds an upstream's transactions: a random UUID, drawn when its
/// tables are made.
///
/// Only the database in which a transaction would have committed can say that it never did. A check
/// carries the identity, `RequestResend` carries it back, and any other database refuses to answer:
/// a wrong address must not close a committed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseId(Uuid);

/// Why a text is no [`DatabaseId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a UUID in its usual text form of 36 characters")]
pub struct InvalidDatabaseId;

/// The length of its text, in characters.
const CHARS: usize = 36;

impl DatabaseId {
    /// The database of this identity.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Its identity, as databases store it.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl FromStr for DatabaseId {
    type Err = InvalidDatabaseId;

    fn from_str(text: &str) -> Result<Self, InvalidDatabaseId> {
        if text.len() != CHARS {
            return Err(InvalidDatabaseId);
        }
        text.parse().map(Self).map_err(|_| InvalidDatabaseId)
    }
}

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for DatabaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

//! The id of a message: a UUIDv7, with the time of its making inside.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use thiserror::Error;
use uuid::{Uuid, Variant};

use crate::id_generator::IdGenerator;
use crate::time::UnixMillis;

/// A message's id: a UUIDv7 (RFC 9562, section 5.7).
///
/// The first 48 bits are the milliseconds since 1970 at which it was made, so ids sort by time and
/// tables can be partitioned by them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Uuid);

/// Why a text or a UUID is not a message's id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// Not 36 characters of hexadecimal digits and hyphens.
    #[error("not a UUID in its usual text form of 36 characters")]
    NotUuid,
    /// A UUID of another version or variant.
    #[error("a UUID, but not of version 7 (RFC 9562): its time cannot be read")]
    NotVersion7,
}

impl MessageId {
    /// A new id, of this moment.
    ///
    /// Ids made one after the other in one process sort in that order, unless the clock is set back by
    /// more than a second in between.
    #[must_use]
    pub fn generate() -> Self {
        static GENERATOR: Mutex<IdGenerator> = Mutex::new(IdGenerator::new());
        #[expect(clippy::disallowed_methods, reason = "an id holds the time of its making")]
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
        let random = Uuid::new_v4().as_u128();
        let (ms, bits) =
            GENERATOR.lock().unwrap_or_else(PoisonError::into_inner).next(now_ms, random);
        Self::from_parts(UnixMillis::from_ms(ms), bits)
    }

    /// The id of a given moment whose other 74 bits come from `random`.
    ///
    /// A moment outside what 48 bits can hold becomes the nearest that they can.
    #[must_use]
    pub fn from_parts(at: UnixMillis, random: [u8; 10]) -> Self {
        let ms = at.max(UnixMillis::EPOCH).min(UnixMillis::MAX_IN_ID).ms();
        let ms = u64::try_from(ms).expect("the moment was brought into the range of 48 bits");
        Self(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
    }

    /// When it was made, on its maker's clock.
    #[must_use]
    pub fn time(self) -> UnixMillis {
        let bits = self.0.as_u128() >> 80;
        UnixMillis::from_ms(i64::try_from(bits).expect("48 bits fit into an i64"))
    }

    /// The UUID itself, as the databases store it.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl TryFrom<Uuid> for MessageId {
    type Error = InvalidId;

    fn try_from(uuid: Uuid) -> Result<Self, InvalidId> {
        if uuid.get_version_num() == 7 && uuid.get_variant() == Variant::RFC4122 {
            Ok(Self(uuid))
        } else {
            Err(InvalidId::NotVersion7)
        }
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        /// Hyphens included; the other forms that the uuid crate reads are not on the wire.
        const TEXT_LENGTH: usize = 36;
        if text.len() != TEXT_LENGTH {
            return Err(InvalidId::NotUuid);
        }
        Uuid::try_parse(text).map_err(|_| InvalidId::NotUuid)?.try_into()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.hyphenated().serialize(serializer)
    }
}

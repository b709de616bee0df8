//! How values stand in columns: the only place where an id, a word or a moment becomes what Postgres
//! stores, and back.

use std::fmt::Display;
use std::str::FromStr;

use countersign_protocol::{Attempt, DatabaseId, MessageId, Name, UnixMillis};
use sqlx::decode::Decode;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::types::time::OffsetDateTime;
use sqlx::{Postgres, Type};
use uuid::Uuid;

use crate::rules::origin::Origin;

/// A message's id in a `uuid` column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id(pub(super) MessageId);

/// A name, or a word of a closed list, in a `text` column.
#[derive(Clone, Debug)]
pub(super) struct Text<T>(pub(super) T);

/// A moment in a `timestamptz` column. Postgres stores microseconds: reading cuts them off, so that a
/// moment is never read as one that is still to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time(pub(super) UnixMillis);

/// An origin as a `uuid` column holds it: NULL if no check has named a database, and the nil UUID, which
/// no database has, if two have named different ones.
pub(super) fn stored_origin(origin: Origin) -> Option<Uuid> {
    match origin {
        Origin::Unnamed => None,
        Origin::Database(id) => Some(id.uuid()),
        Origin::Disputed => Some(Uuid::nil()),
    }
}

/// The origin that a `uuid` column holds, or that a check names.
pub(super) fn read_origin(database: Option<Uuid>) -> Origin {
    match database {
        None => Origin::Unnamed,
        Some(id) if id.is_nil() => Origin::Disputed,
        Some(id) => Origin::Database(DatabaseId::from_uuid(id)),
    }
}

/// The years 1 to 9999, which Postgres and `time` both hold. A peer may state any moment: one outside
/// of these is stored as the nearest, as it would otherwise fail the statement for all its rows.
const STORABLE_MS: (i64, i64) = (-62_135_596_800_000, 253_402_300_799_999);

const NANOS_PER_MS: i128 = 1_000_000;

impl Type<Postgres> for Id {
    fn type_info() -> PgTypeInfo {
        Uuid::type_info()
    }
}

impl Decode<'_, Postgres> for Id {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(Uuid::decode(value)?.try_into()?))
    }
}

impl<T> Type<Postgres> for Text<T> {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }

    fn compatible(column: &PgTypeInfo) -> bool {
        <str as Type<Postgres>>::compatible(column)
    }
}

impl<T> PgHasArrayType for Text<T> {
    fn array_type_info() -> PgTypeInfo {
        <String as PgHasArrayType>::array_type_info()
    }

    fn array_compatible(column: &PgTypeInfo) -> bool {
        <String as PgHasArrayType>::array_compatible(column)
    }
}

impl<T: FromStr<Err: Display>> Decode<'_, Postgres> for Text<T> {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let text = <&str as Decode<Postgres>>::decode(value)?;
        Ok(Self(text.parse().map_err(|error: T::Err| format!("{text:?}: {error}"))?))
    }
}

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        OffsetDateTime::type_info()
    }
}

impl PgHasArrayType for Time {
    fn array_type_info() -> PgTypeInfo {
        OffsetDateTime::array_type_info()
    }
}

impl Decode<'_, Postgres> for Time {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let nanos = OffsetDateTime::decode(value)?.unix_timestamp_nanos();
        Ok(Self(UnixMillis::from_ms(i64::try_from(nanos.div_euclid(NANOS_PER_MS))?)))
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let ms = self.0.ms().clamp(STORABLE_MS.0, STORABLE_MS.1);
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * NANOS_PER_MS)?
            .encode_by_ref(buffer)
    }
}

/// Ids to look up, with their bounds.
pub(super) struct Ids {
    pub(super) first: Uuid,
    pub(super) last: Uuid,
    pub(super) all: Vec<Uuid>,
}

impl Ids {
    /// `None` if there are none.
    pub(super) fn of(ids: impl Iterator<Item = MessageId>) -> Option<Self> {
        let mut all: Vec<Uuid> = ids.map(MessageId::uuid).collect();
        all.sort_unstable();
        all.dedup();
        Some(Self { first: *all.first()?, last: *all.last()?, all })
    }
}

pub(super) fn read_text<T: FromStr<Err: Display>>(text: &str) -> Result<T, sqlx::Error> {
    text.parse().map_err(|error: T::Err| sqlx::Error::Decode(error.to_string().into()))
}

pub(super) fn joined(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(",")
}

pub(super) fn texts(names: &[Name]) -> Vec<&str> {
    names.iter().map(Name::as_str).collect()
}

/// A number that no column can hold counts as not said.
pub(super) fn stored_attempt(attempt: Option<Attempt>) -> Option<i32> {
    attempt.and_then(|attempt| i32::try_from(attempt.number()).ok())
}

pub(super) fn stored_total(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn stored_count(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_moment_that_a_peer_states_can_be_stored() {
        for ms in [i64::MIN, STORABLE_MS.0, -1, 0, 1_700_000_000_123, STORABLE_MS.1, i64::MAX] {
            let mut buffer = PgArgumentBuffer::default();
            let stored = Time(UnixMillis::from_ms(ms)).encode_by_ref(&mut buffer).unwrap();
            assert!(matches!(stored, IsNull::No), "{ms}");
        }
    }
}

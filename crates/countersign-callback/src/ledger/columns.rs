//! How values stand in columns.

use std::fmt::Display;
use std::str::FromStr;

use countersign_protocol::{Attempt, MessageId, Name};
use uuid::Uuid;

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

pub(super) fn read_id(id: Uuid) -> Result<MessageId, sqlx::Error> {
    MessageId::try_from(id).map_err(|error| sqlx::Error::Decode(Box::new(error)))
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

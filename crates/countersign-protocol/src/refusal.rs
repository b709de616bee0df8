//! Why a reader refuses one entry.

use thiserror::Error;

use crate::arming_id::InvalidArmingId;
use crate::id::InvalidId;
use crate::name::InvalidName;
use crate::time::UnixMillis;

/// Why a reader refuses one entry; a person reads its text in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("entry: {0}")]
    Malformed(String),
    #[error("id: {0}")]
    BadId(#[from] InvalidId),
    #[error(
        "id: more than 24 hours in the future ({0} ms since 1970): is the sender's clock right?"
    )]
    IdAhead(UnixMillis),
    #[error("id: older than the retention ({0} ms since 1970): what was known of it is gone")]
    IdTooOld(UnixMillis),
    #[error("{field}: {cause}")]
    BadName { field: &'static str, cause: InvalidName },
    #[error("consumers: {given} given; 1 to {most} can be listed")]
    ConsumerCount { given: usize, most: usize },
    #[error("arming: {0}")]
    BadArming(#[from] InvalidArmingId),
    #[error("outcome: {0:?} is none of processed, rejected, retrying")]
    UnknownOutcome(String),
    #[error("until_ms: a retrying entry says when it tries again, at most 24 hours ahead")]
    BadUntil,
    #[error("queue: up to 255 bytes without control characters")]
    BadQueue,
}

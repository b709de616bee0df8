//! Why a reader refuses a whole envelope, or one entry.

use thiserror::Error;

use crate::arming_id::InvalidArmingId;
use crate::id::InvalidId;
use crate::limits::{MAX_BODY_BYTES, MAX_ENTRIES, VERSION};
use crate::name::InvalidName;
use crate::time::UnixMillis;

/// Why a reader cannot read a whole envelope. Such a body goes to quarantine as it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// The body is over [`MAX_BODY_BYTES`].
    #[error("body of {0} bytes: at most {MAX_BODY_BYTES} are read")]
    TooLarge(usize),
    /// The body is not JSON, or not of this envelope's shape.
    #[error("not a {kind} envelope: {cause}")]
    Malformed {
        /// `check`, `confirm`, `rolled-back` or `marker`.
        kind: &'static str,
        /// What the JSON parser says.
        cause: String,
    },
    /// This crate does not know the version.
    #[error("version {0}: only version {VERSION} is known; is the sender newer than this reader?")]
    UnknownVersion(u64),
    /// The header has no usable `upstream` or `consumer`.
    #[error("{field}: {cause}")]
    BadName {
        /// `upstream` or `consumer`.
        field: &'static str,
        /// What is wrong with the name.
        cause: InvalidName,
    },
    /// The envelope has no entry, or more than [`MAX_ENTRIES`].
    #[error("{0} entries: 1 to {MAX_ENTRIES} are read")]
    EntryCount(usize),
}

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

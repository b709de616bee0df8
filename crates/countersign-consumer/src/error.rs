//! Why a consumer cannot run.

use thiserror::Error;

/// Why a consumer cannot run. A server that is away is none: it is waited for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings are wrong; every mistake is listed.
    #[error("wrong settings: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// The inbox cannot be brought into the database.
    #[error("cannot prepare countersign.inbox")]
    Inbox(#[source] Box<dyn std::error::Error + Send + Sync>),
}

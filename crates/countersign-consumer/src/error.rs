//! Why a consumer cannot run.

use countersign_protocol::Name;
use thiserror::Error;

/// Why a consumer cannot run. A server that is away is none: it is waited for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings are wrong; every mistake is listed.
    #[error("wrong settings: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// In this process, a consumer of this name consumes another queue of this broker.
    #[error(
        "consumer {name} consumes queue {queue:?} in this process already: a message that reaches both queues would take effect once and count as confirmed for both; give each queue's consumer a name of its own, and name both to the upstream"
    )]
    NameTaken {
        /// The consumer's name.
        name: Name,
        /// The queue that it consumes already.
        queue: String,
    },
    /// The inbox cannot be brought into the database.
    #[error("cannot prepare countersign.inbox")]
    Inbox(#[source] Box<dyn std::error::Error + Send + Sync>),
}

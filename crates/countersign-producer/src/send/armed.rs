//! Messages whose checks are on their way, or held by the broker.

use std::fmt;

use countersign_protocol::MessageId;

use crate::send::batch::Batch;
use crate::send::checks::Checks;

/// Messages whose checks are on their way to the broker. Next: [`begin`](Self::begin).
///
/// The checks travel while the transaction does its work; [`commit`](crate::Enlisted::commit) waits
/// for both. To hold no locks meanwhile, wait first: [`held`](Self::held).
///
/// When this is dropped, nothing is sent. The SDK tells the callback service if it can do so at
/// once; otherwise the checks come due later, and the upstream answers "never committed".
#[must_use = "nothing is sent: begin a transaction with it, commit and publish"]
pub struct Armed {
    pub(crate) batch: Batch,
    pub(crate) checks: Checks,
}

/// Messages whose checks the broker holds. Next: [`begin`](Self::begin), or, for an upstream without
/// Postgres, [`committed`](Self::committed).
#[must_use = "nothing is sent: commit and publish"]
#[derive(Debug)]
pub struct Held {
    pub(crate) batch: Batch,
}

impl Armed {
    /// The ids of the messages.
    pub fn message_ids(&self) -> impl Iterator<Item = MessageId> {
        self.batch.message_ids()
    }
}

impl Held {
    /// The ids of the messages.
    pub fn message_ids(&self) -> impl Iterator<Item = MessageId> {
        self.batch.message_ids()
    }
}

impl From<Held> for Armed {
    fn from(held: Held) -> Self {
        Self { batch: held.batch, checks: Checks::held() }
    }
}

impl fmt::Debug for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Armed").field("batch", &self.batch).finish_non_exhaustive()
    }
}

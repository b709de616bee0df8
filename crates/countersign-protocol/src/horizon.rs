//! Which ids a reader can take.

use std::time::Duration;

use crate::id::MessageId;
use crate::refusal::Refusal;
use crate::time::UnixMillis;

/// How far ahead of the reader's clock an id may be.
pub const MAX_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// Which ids a reader can take: those that its partitions have room for.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    /// The reader's clock.
    pub now: UnixMillis,
    /// Ids older than this are refused: what was known of them is gone.
    pub retention: Duration,
}

impl Horizon {
    pub(crate) fn admit(&self, text: &str) -> Result<MessageId, Refusal> {
        let id: MessageId = text.parse()?;
        if id.time() > self.now.after(MAX_AHEAD) {
            Err(Refusal::IdAhead(id.time()))
        } else if id.time() < self.now.before(self.retention) {
            Err(Refusal::IdTooOld(id.time()))
        } else {
            Ok(id)
        }
    }
}

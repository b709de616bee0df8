//! Messages that one transaction sends together.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_protocol::MessageId;

use crate::clock;
use crate::message::Message;
use crate::send::in_flight::Share;
use crate::send::publisher::Inner;
use crate::send::rolled_back::Notice;

/// The messages of one transaction, with their share of the limit on unconfirmed messages.
pub(crate) struct Batch {
    pub(crate) publisher: Arc<Inner>,
    pub(crate) messages: Vec<Message>,
    pub(crate) share: Share,
    pub(crate) notice: Notice,
    pub(crate) armed_at: Instant,
}

impl Batch {
    pub(crate) fn message_ids(&self) -> impl Iterator<Item = MessageId> {
        self.messages.iter().map(Message::id)
    }

    /// How long ago the batch was armed or, if that is longer ago, its oldest id was made: the
    /// upstream answers the callback service's questions by the id's age.
    pub(crate) fn age(&self) -> Duration {
        let now = clock::now();
        let oldest = self.message_ids().map(|id| now.since(id.time())).max();
        self.armed_at.elapsed().max(oldest.unwrap_or_default())
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.message_ids()).finish()
    }
}

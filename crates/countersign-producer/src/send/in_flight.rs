//! The limit on unconfirmed messages, and on the bytes in them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The free room: messages, and kibibytes of them.
#[derive(Debug)]
pub(crate) struct Budget {
    messages: Arc<Semaphore>,
    kibibytes: Arc<Semaphore>,
}

/// The share of a transaction's messages. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    _messages: OwnedSemaphorePermit,
    _kibibytes: OwnedSemaphorePermit,
}

const KIBIBYTE: usize = 1024;

impl Budget {
    pub(crate) fn new(messages: usize, bytes: usize) -> Self {
        let semaphore =
            |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self { messages: semaphore(messages), kibibytes: semaphore(bytes / KIBIBYTE) }
    }

    /// Takes a share for messages of these sizes in bytes; `None` if the room left is smaller.
    pub(crate) fn take(&self, sizes: impl ExactSizeIterator<Item = usize>) -> Option<Share> {
        let count = u32::try_from(sizes.len()).ok()?;
        // Each message counts for at least one kibibyte: its headers take room, too.
        let kibibytes = sizes.map(|bytes| bytes / KIBIBYTE + 1).sum::<usize>();
        Some(Share {
            _messages: Arc::clone(&self.messages).try_acquire_many_owned(count).ok()?,
            _kibibytes: Arc::clone(&self.kibibytes)
                .try_acquire_many_owned(u32::try_from(kibibytes).ok()?)
                .ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_messages_nor_bytes_exceed_the_budget() {
        let budget = Budget::new(3, 4 * KIBIBYTE);
        let two = budget.take([10, 10].into_iter()).expect("two of three");
        assert!(budget.take([10, 10].into_iter()).is_none(), "two more are four");
        assert!(budget.take([2 * KIBIBYTE].into_iter()).is_none(), "five kibibytes of four");
        let third = budget.take([KIBIBYTE].into_iter()).expect("the third, with what is left");
        drop((two, third));
        assert!(budget.take([10, 10, 10].into_iter()).is_some(), "everything was given back");
    }
}

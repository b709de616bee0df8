//! The limit on unconfirmed messages, and on the bytes in them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The free room: messages, and kibibytes of them.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    messages: Arc<Semaphore>,
    kibibytes: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    messages: usize,
    kibibytes: usize,
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
        let limits = Limits { messages, kibibytes: bytes / KIBIBYTE };
        let (messages, kibibytes) = (semaphore(limits.messages), semaphore(limits.kibibytes));
        Self { limits, messages, kibibytes }
    }

    /// Why messages of these sizes in bytes never fit, for a person; `None` if they can.
    pub(crate) fn is_exceeded_by(
        &self,
        sizes: impl ExactSizeIterator<Item = usize>,
    ) -> Option<String> {
        let (count, kibibytes) = (sizes.len(), sizes.map(kibibytes).sum::<usize>());
        let Limits { messages, kibibytes: most } = self.limits;
        if count > messages {
            Some(format!("{count} messages: max_unconfirmed is {messages}"))
        } else if kibibytes > most {
            Some(format!("bodies of {kibibytes} KiB: max_unconfirmed_bytes is {most} KiB"))
        } else {
            None
        }
    }

    /// Takes a share for messages of these sizes in bytes; `None` if the room left is smaller.
    pub(crate) fn take(&self, sizes: impl ExactSizeIterator<Item = usize>) -> Option<Share> {
        let count = u32::try_from(sizes.len()).ok()?;
        let kibibytes = sizes.map(kibibytes).sum::<usize>();
        Some(Share {
            _messages: Arc::clone(&self.messages).try_acquire_many_owned(count).ok()?,
            _kibibytes: Arc::clone(&self.kibibytes)
                .try_acquire_many_owned(u32::try_from(kibibytes).ok()?)
                .ok()?,
        })
    }
}

/// Each message counts for at least one kibibyte: its headers take room, too.
fn kibibytes(bytes: usize) -> usize {
    bytes / KIBIBYTE + 1
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
        assert_eq!(budget.is_exceeded_by([10, 10, 10].into_iter()), None, "there is no room now");
        assert!(budget.is_exceeded_by([10; 4].into_iter()).is_some(), "there never is");
        assert!(budget.is_exceeded_by([4 * KIBIBYTE].into_iter()).is_some());
        drop((two, third));
        assert!(budget.take([10, 10, 10].into_iter()).is_some(), "everything was given back");
    }
}

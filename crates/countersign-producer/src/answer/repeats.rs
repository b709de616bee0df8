//! Repeated requests for the same attempt: answered again, published once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_protocol::{Attempt, MessageId, UnixMillis};

/// The messages that this process republished lately.
///
/// They are in memory. After a restart, or when the caller asks another replica, a repeat is
/// published a second time. That costs a duplicate, which the consumer's inbox absorbs.
#[derive(Debug)]
pub(crate) struct Repeats {
    memory: Mutex<Memory>,
    /// A request holds one of these locks while it republishes, so that a repeat that comes
    /// meanwhile waits for its outcome. The locks are few, shared by all ids.
    turns: Vec<tokio::sync::Mutex<()>>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Memory {
    latest: HashMap<MessageId, Latest>,
    oldest_first: VecDeque<MessageId>,
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    /// The highest attempt published.
    attempt: Attempt,
    /// The latest attempt that a caller asked for by its number. A republish by hand does not stand
    /// in its way.
    requested: Option<Republished>,
}

/// A republish that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Republished {
    pub(crate) attempt: Attempt,
    pub(crate) published_at: UnixMillis,
}

/// How many requests can republish at once: messages that share a lock are answered one after the
/// other.
const TURNS: u128 = 64;
/// The attempt of a republish by hand when nothing is remembered: the message was published at
/// least once before.
const AT_LEAST: u32 = 2;

impl Repeats {
    pub(crate) fn new(capacity: usize) -> Self {
        let turns = (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect();
        Self { memory: Mutex::default(), turns, capacity }
    }

    /// Waits until no other request of this process republishes this message.
    pub(crate) async fn turn(&self, id: MessageId) -> tokio::sync::MutexGuard<'_, ()> {
        let index = usize::try_from(id.uuid().as_u128() % TURNS).unwrap_or(0);
        self.turns[index].lock().await
    }

    /// The outcome of an earlier request for the same attempt.
    pub(crate) fn recall(&self, id: MessageId, asked: Attempt) -> Option<Republished> {
        let latest = *self.memory().latest.get(&id)?;
        latest.requested.filter(|republished| republished.attempt == asked)
    }

    /// The attempt of a republish by hand: the one after the highest remembered.
    pub(crate) fn next_attempt(&self, id: MessageId) -> Attempt {
        let latest = self.memory().latest.get(&id).map(|latest| latest.attempt.next());
        latest.or_else(|| Attempt::from_number(AT_LEAST)).unwrap_or(Attempt::FIRST)
    }

    /// Remembers a republish, and forgets the message that was first remembered longest ago.
    pub(crate) fn remember(&self, id: MessageId, republished: Republished, by_hand: bool) {
        let mut memory = self.memory();
        let Memory { latest, oldest_first } = &mut *memory;
        let entry = latest.entry(id).or_insert_with(|| {
            oldest_first.push_back(id);
            Latest { attempt: republished.attempt, requested: None }
        });
        entry.attempt = entry.attempt.max(republished.attempt);
        if !by_hand {
            entry.requested = Some(republished);
        }
        if oldest_first.len() > self.capacity
            && let Some(oldest) = oldest_first.pop_front()
        {
            latest.remove(&oldest);
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn republished(attempt: u32) -> Republished {
        Republished {
            attempt: Attempt::from_number(attempt).unwrap(),
            published_at: UnixMillis::from_ms(i64::from(attempt)),
        }
    }

    #[test]
    fn only_the_same_attempt_is_a_repeat() {
        let (repeats, id) = (Repeats::new(10), MessageId::generate());
        let second = republished(2);
        assert_eq!(repeats.recall(id, second.attempt), None);
        repeats.remember(id, second, false);
        assert_eq!(repeats.recall(id, second.attempt), Some(second));
        assert_eq!(repeats.recall(id, republished(3).attempt), None);
        assert_eq!(repeats.recall(MessageId::generate(), second.attempt), None);
    }

    #[test]
    fn a_publish_by_hand_is_numbered_and_does_not_count_as_the_attempt_of_that_number() {
        let (repeats, id) = (Repeats::new(10), MessageId::generate());
        assert_eq!(repeats.next_attempt(id).number(), 2);
        repeats.remember(id, republished(2), true);
        assert_eq!(repeats.recall(id, republished(2).attempt), None);
        assert_eq!(repeats.next_attempt(id).number(), 3);
        repeats.remember(id, republished(2), false);
        assert_eq!(repeats.next_attempt(id).number(), 3);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let repeats = Repeats::new(2);
        let ids: Vec<_> = (0..3).map(|_| MessageId::generate()).collect();
        for &id in &ids {
            repeats.remember(id, republished(2), false);
            repeats.remember(id, republished(3), false);
        }
        let remembered = |id: MessageId| repeats.recall(id, republished(3).attempt).is_some();
        assert_eq!(ids.iter().map(|&id| remembered(id)).collect::<Vec<_>>(), [false, true, true]);
        let memory = repeats.memory();
        assert_eq!((memory.latest.len(), memory.oldest_first.len()), (2, 2));
    }
}

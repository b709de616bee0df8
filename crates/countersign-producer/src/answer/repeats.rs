//! Repeated requests for the same attempt: answered again, published once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_protocol::{Attempt, MessageId, UnixMillis};

/// What this process republished lately.
///
/// It is in memory: after a restart, or when another replica is asked, a repeat is published a second
/// time. That costs a duplicate, which the consumer's inbox absorbs.
#[derive(Debug)]
pub(crate) struct Repeats {
    memory: Mutex<Memory>,
    /// One of them is held while a message is republished, so that a repeat that comes meanwhile
    /// waits for its outcome. Few, shared by all ids.
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
    /// The latest that was asked for by its number. One published by hand does not stand in its way.
    requested: Option<Republished>,
}

/// A message was republished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Republished {
    pub(crate) attempt: Attempt,
    pub(crate) published_at: UnixMillis,
}

/// Messages that share a turn are answered one after the other, so as many as this at once.
const TURNS: u128 = 64;
/// By hand, with nothing remembered: it was published at least once before.
const AT_LEAST: u32 = 2;

impl Repeats {
    pub(crate) fn new(capacity: usize) -> Self {
        let turns = (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect();
        Self { memory: Mutex::default(), turns, capacity }
    }

    /// Waits until no other request republishes this message here.
    pub(crate) async fn turn(&self, id: MessageId) -> tokio::sync::MutexGuard<'_, ()> {
        let index = usize::try_from(id.uuid().as_u128() % TURNS).unwrap_or(0);
        self.turns[index].lock().await
    }

    /// The outcome of the same request before.
    pub(crate) fn recall(&self, id: MessageId, asked: Attempt) -> Option<Republished> {
        let latest = *self.memory().latest.get(&id)?;
        latest.requested.filter(|republished| republished.attempt == asked)
    }

    /// The number of a publish asked for by hand: the one after the highest remembered.
    pub(crate) fn next_attempt(&self, id: MessageId) -> Attempt {
        let latest = self.memory().latest.get(&id).map(|latest| latest.attempt.next());
        latest.or_else(|| Attempt::from_number(AT_LEAST)).unwrap_or(Attempt::FIRST)
    }

    /// Remembers; forgets the message that was first remembered longest ago.
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

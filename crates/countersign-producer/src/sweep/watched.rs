//! What the sweep put back lately.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use countersign_protocol::{Attempt, MessageId};

use crate::sql::EnlistedMessage;

/// Messages that were put back, until their fresh checks must have been looked up.
///
/// Until then nobody knows anything about them, so that they would look forgotten again. Then they
/// are asked about once more: the broker may have lost the fresh check, too, and the walk is past
/// them. It is in memory: a process that dies forgets it, and the next walk from the beginning finds
/// what is still missing.
#[derive(Debug)]
pub(crate) struct Watched {
    /// How long each is left alone.
    delay: Duration,
    by_id: HashMap<MessageId, Entry>,
    /// The delay is the same for all, so this is in the order of their times.
    first_due: VecDeque<(Instant, MessageId)>,
}

#[derive(Debug)]
struct Entry {
    message: EnlistedMessage,
    attempt: Attempt,
    due: Instant,
}

/// So many are watched at most; each takes about 200 bytes. The sweep waits when they are reached.
const CAPACITY: usize = 100_000;

impl Watched {
    pub(crate) fn new(delay: Duration) -> Self {
        Self { delay, by_id: HashMap::new(), first_due: VecDeque::new() }
    }

    /// A message was put back just now, as this attempt.
    pub(crate) fn add(&mut self, now: Instant, message: EnlistedMessage, attempt: Attempt) {
        let due = now + self.delay;
        self.first_due.push_back((due, message.id));
        self.by_id.insert(message.id, Entry { message, attempt, due });
    }

    pub(crate) fn holds(&self, id: MessageId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.by_id.len() >= CAPACITY
    }

    /// Which publish of the message comes next. What is not watched was published at least once.
    pub(crate) fn next_attempt(&self, id: MessageId) -> Attempt {
        self.by_id.get(&id).map_or(Attempt::FIRST, |entry| entry.attempt).next()
    }

    /// When the first of them has to be asked about.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.first_due.front().map(|&(due, _)| due)
    }

    /// Up to `most` that have to be asked about now. They stay until [`forget`](Self::forget).
    pub(crate) fn due(&self, now: Instant, most: usize) -> Vec<EnlistedMessage> {
        let is_due = |(due, _): &&(Instant, MessageId)| *due <= now;
        let ids = self.first_due.iter().take_while(is_due).take(most);
        ids.filter_map(|(_, id)| Some(self.by_id.get(id)?.message.clone())).collect()
    }

    /// These were asked about: whatever was due until `now` need not be watched any more.
    pub(crate) fn forget(&mut self, asked: &[EnlistedMessage], now: Instant) {
        for EnlistedMessage { id, .. } in asked {
            if self.by_id.get(id).is_some_and(|entry| entry.due <= now) {
                self.by_id.remove(id);
            }
        }
        // What is left of those at the front was added again, and stands further back, too.
        while let Some(&(due, id)) = self.first_due.front() {
            if self.by_id.get(&id).is_some_and(|entry| entry.due == due) {
                break;
            }
            self.first_due.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn message() -> EnlistedMessage {
        EnlistedMessage { id: MessageId::generate(), consumers: Vec::new() }
    }

    #[test]
    fn what_was_put_back_is_left_alone_then_asked_about_once_and_forgotten() {
        let (mut watched, start) = (Watched::new(MINUTE), Instant::now());
        let (first, second) = (message(), message());
        watched.add(start, first.clone(), Attempt::FIRST.next());
        watched.add(start + MINUTE / 2, second.clone(), Attempt::FIRST.next());
        assert!(watched.holds(first.id));
        assert_eq!(watched.next_due(), Some(start + MINUTE));
        assert_eq!(watched.due(start + MINUTE / 2, 10), []);

        let now = start + MINUTE;
        let due = watched.due(now, 10);
        assert_eq!(due, std::slice::from_ref(&first));
        assert_eq!(watched.due(now, 10), due, "until it is forgotten");
        watched.forget(&due, now);
        assert!(!watched.holds(first.id));
        assert_eq!(watched.next_due(), Some(start + MINUTE / 2 + MINUTE));
        assert_eq!(watched.due(start + 2 * MINUTE, 10), [second]);
    }

    #[test]
    fn what_is_put_back_again_counts_its_attempts_and_is_watched_anew() {
        let (mut watched, start) = (Watched::new(MINUTE), Instant::now());
        let lost = message();
        assert_eq!(watched.next_attempt(lost.id).number(), 2);
        watched.add(start, lost.clone(), watched.next_attempt(lost.id));
        let now = start + MINUTE;
        let due = watched.due(now, 10);
        assert_eq!(watched.next_attempt(lost.id).number(), 3);
        watched.add(now, lost.clone(), watched.next_attempt(lost.id));
        watched.forget(&due, now);
        assert!(watched.holds(lost.id), "it was added again");
        assert_eq!(watched.next_due(), Some(now + MINUTE));
        assert_eq!(watched.due(now, 10), []);
        let due = watched.due(now + MINUTE, 10);
        assert_eq!(due, [lost]);
        watched.forget(&due, now + MINUTE);
        assert_eq!((watched.next_due(), watched.by_id.len()), (None, 0));
    }
}

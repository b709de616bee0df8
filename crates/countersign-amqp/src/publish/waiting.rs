//! Entries that were taken and have no outcome yet: a bounded queue, and the account of those that
//! left it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::publish::outcome::{NotTaken, Pending, PublishOutcome};

/// How many entries and bytes may be without an outcome, waiting or on their way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// Entries that wait until any of several tasks takes them in batches.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    limits: Limits,
    state: Mutex<State<T>>,
    /// Holds one permit when the queue has an entry, or is closed and stays empty.
    more: Notify,
    /// Notified when the last outcome after `close` is given.
    finished: Notify,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<Entry<T>>,
    /// Entries waiting and on their way: the limits hold for these.
    unsettled: Limits,
    /// How many callers have not been told their outcome.
    untold: usize,
    closed: bool,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    bytes: usize,
    outcome: oneshot::Sender<PublishOutcome>,
}

/// Entries that were taken together, apart from the callers that wait for them.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    pub(crate) items: Vec<T>,
    pub(crate) owed: Owed<T>,
}

/// The callers that wait for a batch's outcomes, in the order of its items. Callers that were told
/// none when this is dropped see [`PublishOutcome::Unknown`].
#[derive(Debug)]
pub(crate) struct Owed<T> {
    outcomes: Vec<oneshot::Sender<PublishOutcome>>,
    bytes: usize,
    waiting: Arc<Waiting<T>>,
}

impl<T> Waiting<T> {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let state = State {
            queue: VecDeque::new(),
            unsettled: Limits { entries: 0, bytes: 0 },
            untold: 0,
            closed: false,
        };
        Arc::new(Self {
            limits,
            state: Mutex::new(state),
            more: Notify::new(),
            finished: Notify::new(),
        })
    }

    /// Puts an entry at the end, unless `away` says why it could not leave.
    pub(crate) fn push(
        &self,
        item: T,
        bytes: usize,
        away: impl FnOnce() -> Option<String>,
    ) -> Result<Pending, NotTaken> {
        let (outcome, pending) = Pending::new();
        let was_empty = {
            let mut state = self.lock();
            if state.closed {
                return Err(NotTaken::Closed);
            }
            // `away` is asked under the lock, so that `give_up` runs either before this question or
            // after the push.
            if let Some(why) = away() {
                return Err(NotTaken::Away { why });
            }
            let Limits { entries, bytes: held } = state.unsettled;
            if entries >= self.limits.entries || held.saturating_add(bytes) > self.limits.bytes {
                return Err(NotTaken::Overloaded);
            }
            state.unsettled = Limits { entries: entries + 1, bytes: held + bytes };
            state.untold += 1;
            state.queue.push_back(Entry { item, bytes, outcome });
            state.queue.len() == 1
        };
        if was_empty {
            self.more.notify_one();
        }
        Ok(pending)
    }

    /// Waits for one entry and adds the entries that are already there, up to `most`. Returns
    /// `None` when the queue is closed and empty.
    ///
    /// # Cancel safety
    /// No entry is taken unless it is returned.
    pub(crate) async fn take(self: &Arc<Self>, most: Limits) -> Option<Batch<T>> {
        loop {
            let more = self.more.notified();
            if let Some(batch) = self.take_now(most) {
                return Some(batch);
            }
            if self.lock().closed {
                // The permit goes on to the next task that waits here.
                self.more.notify_one();
                return None;
            }
            more.await;
        }
    }

    fn take_now(self: &Arc<Self>, most: Limits) -> Option<Batch<T>> {
        let mut state = self.lock();
        let expected = state.queue.len().min(most.entries.max(1));
        let mut items = Vec::with_capacity(expected);
        let mut outcomes = Vec::with_capacity(expected);
        let mut bytes = 0;
        while let Some(next) = state.queue.front() {
            let fits = items.len() < most.entries && bytes + next.bytes <= most.bytes;
            if !fits && !items.is_empty() {
                break;
            }
            bytes += next.bytes;
            if let Some(entry) = state.queue.pop_front() {
                items.push(entry.item);
                outcomes.push(entry.outcome);
            }
        }
        let rest = !state.queue.is_empty();
        drop(state);
        if rest {
            self.more.notify_one();
        }
        let owed = || Owed { outcomes, bytes, waiting: Arc::clone(self) };
        (!items.is_empty()).then(|| Batch { owed: owed(), items })
    }

    /// Settles the entries that still wait as unknown, if `why` gives a reason to.
    pub(crate) fn give_up(self: &Arc<Self>, why: impl FnOnce() -> Option<String>) {
        let (given_up, why) = {
            let mut state = self.lock();
            let Some(why) = why() else { return };
            (std::mem::take(&mut state.queue), why)
        };
        let bytes = given_up.iter().map(|entry| entry.bytes).sum();
        let outcomes = given_up.into_iter().map(|entry| entry.outcome).collect();
        let owed = Owed { outcomes, bytes, waiting: Arc::clone(self) };
        owed.settle_all(PublishOutcome::Unknown { why });
    }

    /// Takes no further entries.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.more.notify_one();
        self.told(0);
    }

    /// Waits until the queue is closed and every entry has its outcome.
    pub(crate) async fn finished(&self) {
        loop {
            let finished = self.finished.notified();
            let mut finished = std::pin::pin!(finished);
            finished.as_mut().enable();
            if self.lock().is_finished() {
                return;
            }
            finished.await;
        }
    }

    /// Makes room before the callers are told, so that a caller that hears an outcome finds room
    /// for its next entry.
    fn make_room(&self, entries: usize, bytes: usize) {
        let mut state = self.lock();
        state.unsettled.entries -= entries;
        state.unsettled.bytes -= bytes;
    }

    fn told(&self, entries: usize) {
        let finished = {
            let mut state = self.lock();
            state.untold -= entries;
            state.is_finished()
        };
        if finished {
            self.finished.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn is_finished(&self) -> bool {
        self.closed && self.untold == 0
    }
}

impl<T> Owed<T> {
    /// Gives each caller its outcome, in the order of the batch's items.
    pub(crate) fn settle(mut self, outcomes: impl IntoIterator<Item = PublishOutcome>) {
        let owed = std::mem::take(&mut self.outcomes);
        let entries = owed.len();
        self.waiting.make_room(entries, std::mem::take(&mut self.bytes));
        for (owed, outcome) in owed.into_iter().zip(outcomes) {
            // The send fails if the caller no longer waits, which it is free to do.
            let _ = owed.send(outcome);
        }
        self.waiting.told(entries);
    }

    /// Gives all callers the same outcome.
    pub(crate) fn settle_all(self, outcome: PublishOutcome) {
        self.settle(std::iter::repeat(outcome));
    }

    /// Splits off the callers from `at` on.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let outcomes = self.outcomes.split_off(at);
        // The bytes stay with the first part whole: both parts give back what they hold in the end.
        Self { outcomes, bytes: 0, waiting: Arc::clone(&self.waiting) }
    }
}

impl<T> Drop for Owed<T> {
    fn drop(&mut self) {
        let outcomes = std::mem::take(&mut self.outcomes);
        let entries = outcomes.len();
        self.waiting.make_room(entries, self.bytes);
        drop(outcomes);
        self.waiting.told(entries);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const PLENTY: Limits = Limits { entries: 1_000, bytes: 1_000_000 };

    fn push(waiting: &Waiting<u32>, item: u32, bytes: usize) -> Result<Pending, NotTaken> {
        waiting.push(item, bytes, || None)
    }

    fn taken(waiting: &Arc<Waiting<u32>>, most: Limits) -> Option<Batch<u32>> {
        waiting.take(most).now_or_never().flatten()
    }

    #[test]
    fn what_waits_leaves_together_up_to_the_limits() {
        let waiting = Waiting::new(PLENTY);
        let _pending: Vec<_> = (0..10).map(|i| push(&waiting, i, 10).unwrap()).collect();
        let first = taken(&waiting, Limits { entries: 4, bytes: 1_000 }).unwrap();
        assert_eq!(first.items, [0, 1, 2, 3]);
        let second = taken(&waiting, Limits { entries: 100, bytes: 25 }).unwrap();
        assert_eq!(second.items, [4, 5]);
        let oversized = taken(&waiting, Limits { entries: 100, bytes: 5 }).unwrap();
        assert_eq!(oversized.items, [6], "one entry leaves whatever its size");
        assert_eq!(taken(&waiting, PLENTY).unwrap().items, [7, 8, 9]);
        assert!(waiting.take(PLENTY).now_or_never().is_none());
    }

    #[test]
    fn the_limits_count_what_is_on_its_way_too() {
        let waiting = Waiting::new(Limits { entries: 2, bytes: 100 });
        let _first = push(&waiting, 1, 60).unwrap();
        assert_eq!(push(&waiting, 2, 41).unwrap_err(), NotTaken::Overloaded, "bytes");
        let batch = taken(&waiting, PLENTY).unwrap();
        let _second = push(&waiting, 3, 40).unwrap();
        assert_eq!(push(&waiting, 4, 0).unwrap_err(), NotTaken::Overloaded, "entries");
        batch.owed.settle_all(PublishOutcome::Routed);
        let _third = push(&waiting, 5, 60).unwrap();
    }

    #[test]
    fn everyone_gets_the_verdict_of_his_place() {
        let waiting = Waiting::new(PLENTY);
        let pending: Vec<_> = (0..3).map(|i| push(&waiting, i, 1).unwrap()).collect();
        let mut first = taken(&waiting, PLENTY).unwrap().owed;
        let last = first.split_off(2);
        first.settle([PublishOutcome::Routed, PublishOutcome::Refused]);
        drop(last);
        let outcomes: Vec<_> = pending.into_iter().map(|p| p.now_or_never().unwrap()).collect();
        assert_eq!(outcomes[..2], [PublishOutcome::Routed, PublishOutcome::Refused]);
        assert!(matches!(outcomes[2], PublishOutcome::Unknown { .. }));
        let state = waiting.lock();
        assert_eq!((state.unsettled.entries, state.unsettled.bytes, state.untold), (0, 0, 0));
    }

    #[test]
    fn what_waits_has_its_outcome_when_it_is_given_up_and_nothing_else() {
        let waiting = Waiting::new(PLENTY);
        let on_its_way = push(&waiting, 1, 1).unwrap();
        let batch = taken(&waiting, PLENTY).unwrap();
        let left = push(&waiting, 2, 1).unwrap();
        waiting.give_up(|| None);
        waiting.give_up(|| Some("gone".to_owned()));
        assert_eq!(left.now_or_never(), Some(PublishOutcome::Unknown { why: "gone".to_owned() }));
        batch.owed.settle_all(PublishOutcome::Routed);
        assert_eq!(on_its_way.now_or_never(), Some(PublishOutcome::Routed));
    }

    #[test]
    fn nothing_is_taken_while_away_or_after_close() {
        let waiting = Waiting::<u32>::new(PLENTY);
        let away = waiting.push(1, 1, || Some("blocked".to_owned())).unwrap_err();
        assert_eq!(away, NotTaken::Away { why: "blocked".to_owned() });
        waiting.close();
        assert_eq!(push(&waiting, 1, 1).unwrap_err(), NotTaken::Closed);
    }

    #[test]
    fn it_is_finished_when_it_is_closed_and_all_have_their_outcome() {
        let waiting = Waiting::new(PLENTY);
        let _pending = push(&waiting, 1, 1).unwrap();
        waiting.close();
        assert!(waiting.finished().now_or_never().is_none());
        let batch = taken(&waiting, PLENTY).unwrap();
        for _ in 0..2 {
            assert!(waiting.take(PLENTY).now_or_never().unwrap().is_none(), "each taker is told");
        }
        assert!(waiting.finished().now_or_never().is_none());
        batch.owed.settle_all(PublishOutcome::Routed);
        assert!(waiting.finished().now_or_never().is_some());
    }

    #[tokio::test]
    async fn one_entry_wakes_one_taker_and_a_rest_the_next() {
        let waiting = Waiting::new(PLENTY);
        let one = Limits { entries: 1, bytes: 1_000 };
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let waiting = Arc::clone(&waiting);
                tokio::spawn(async move { waiting.take(one).await.map(|batch| batch.items) })
            })
            .collect();
        tokio::task::yield_now().await;
        let _pending: Vec<_> = (0..3).map(|i| push(&waiting, i, 1).unwrap()).collect();
        let mut taken = Vec::new();
        for taker in takers {
            taken.extend(taker.await.unwrap().unwrap());
        }
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2]);
    }
}

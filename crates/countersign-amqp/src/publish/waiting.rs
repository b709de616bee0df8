//! Entries that were taken and have no outcome yet: bounded queues, and the account of those that
//! left them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::publish::outcome::{NotTaken, Pending, PublishOutcome};

/// How entries leave: several in one batch, or each alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Together,
    /// At most half of the limits are for entries that leave alone, so that these, being slower,
    /// leave room for the others.
    Alone,
}

/// How many entries and bytes may be without an outcome, waiting or on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// Entries that wait until any of several tasks takes them in batches.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    limits: Limits,
    state: Mutex<State<T>>,
    /// Of each way: holds one permit when its queue has an entry, or everything is finished.
    more: ByWay<Notify>,
    /// Notified when the last outcome after `close` is given.
    finished: Notify,
}

/// One for each way.
#[derive(Debug, Default)]
struct ByWay<V> {
    together: V,
    alone: V,
}

#[derive(Debug)]
struct State<T> {
    queues: ByWay<VecDeque<Entry<T>>>,
    /// Entries waiting and on their way: the limits hold for these.
    unsettled: ByWay<Limits>,
    /// How many callers have not been told their outcome.
    untold: usize,
    closed: bool,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    debt: Debt,
}

/// Entries of one way that were taken together, apart from the callers that wait for them.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    pub(crate) items: Vec<T>,
    pub(crate) owed: Owed<T>,
}

/// The callers that wait for a batch's outcomes, in the order of its items. Callers that were told
/// none when this is dropped see [`PublishOutcome::Unknown`].
#[derive(Debug)]
pub(crate) struct Owed<T> {
    debts: Vec<Debt>,
    way: Way,
    waiting: Arc<Waiting<T>>,
}

#[derive(Debug)]
struct Debt {
    bytes: usize,
    outcome: oneshot::Sender<PublishOutcome>,
}

impl<T> Waiting<T> {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let state = State {
            queues: ByWay { together: VecDeque::new(), alone: VecDeque::new() },
            unsettled: ByWay::default(),
            untold: 0,
            closed: false,
        };
        Arc::new(Self {
            limits,
            state: Mutex::new(state),
            more: ByWay::default(),
            finished: Notify::new(),
        })
    }

    /// Puts an entry at the end of its way's queue, unless `away` says why it could not leave.
    pub(crate) fn push(
        &self,
        way: Way,
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
            if !state.has_room(self.limits, way, bytes) {
                return Err(NotTaken::Overloaded);
            }
            state.untold += 1;
            state.enqueue(way, Entry { item, debt: Debt { bytes, outcome } })
        };
        if was_empty {
            self.more.of(way).notify_one();
        }
        Ok(pending)
    }

    /// Puts entries that were taken at the end of the other way's queue. They have their room
    /// already. If `away` says why they could not leave, they are settled as unknown.
    pub(crate) fn change_way(
        self: &Arc<Self>,
        batch: Batch<T>,
        away: impl FnOnce() -> Option<String>,
    ) {
        let Batch { items, mut owed } = batch;
        let way = owed.way.other();
        let away = {
            let mut state = self.lock();
            let away = away();
            if away.is_none() {
                for (item, debt) in items.into_iter().zip(std::mem::take(&mut owed.debts)) {
                    state.release(owed.way, 1, debt.bytes);
                    state.enqueue(way, Entry { item, debt });
                }
            }
            away
        };
        match away {
            Some(why) => owed.settle_all(PublishOutcome::Unknown { why }),
            None => self.more.of(way).notify_one(),
        }
    }

    /// Waits for one entry of this way and adds those that are already there, up to `most`. Returns
    /// `None` when the queues are closed and every entry has its outcome.
    ///
    /// # Cancel safety
    /// No entry is taken unless it is returned.
    pub(crate) async fn take(self: &Arc<Self>, way: Way, most: Limits) -> Option<Batch<T>> {
        loop {
            let more = self.more.of(way).notified();
            if let Some(batch) = self.take_now(way, most) {
                return Some(batch);
            }
            if self.lock().is_finished() {
                // The permit goes on to the next task that waits here.
                self.more.of(way).notify_one();
                return None;
            }
            more.await;
        }
    }

    fn take_now(self: &Arc<Self>, way: Way, most: Limits) -> Option<Batch<T>> {
        let mut state = self.lock();
        let queue = state.queues.of_mut(way);
        let expected = queue.len().min(most.entries.max(1));
        let mut items = Vec::with_capacity(expected);
        let mut debts = Vec::with_capacity(expected);
        let mut bytes = 0;
        while let Some(next) = queue.front() {
            let fits = items.len() < most.entries && bytes + next.debt.bytes <= most.bytes;
            if !fits && !items.is_empty() {
                break;
            }
            bytes += next.debt.bytes;
            if let Some(entry) = queue.pop_front() {
                items.push(entry.item);
                debts.push(entry.debt);
            }
        }
        let rest = !queue.is_empty();
        drop(state);
        if rest {
            self.more.of(way).notify_one();
        }
        let owed = || Owed { debts, way, waiting: Arc::clone(self) };
        (!items.is_empty()).then(|| Batch { owed: owed(), items })
    }

    /// Settles the entries that still wait as unknown, if `why` gives a reason to.
    pub(crate) fn give_up(self: &Arc<Self>, why: impl FnOnce() -> Option<String>) {
        let (given_up, why) = {
            let mut state = self.lock();
            let Some(why) = why() else { return };
            (std::mem::take(&mut state.queues), why)
        };
        let given_up = [(Way::Together, given_up.together), (Way::Alone, given_up.alone)].map(
            |(way, queue)| {
                let debts = queue.into_iter().map(|entry| entry.debt).collect();
                Owed { debts, way, waiting: Arc::clone(self) }
            },
        );
        for owed in given_up {
            owed.settle_all(PublishOutcome::Unknown { why: why.clone() });
        }
    }

    /// Takes no further entries.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
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
    fn make_room(&self, way: Way, debts: &[Debt]) {
        let bytes = debts.iter().map(|debt| debt.bytes).sum();
        self.lock().release(way, debts.len(), bytes);
    }

    fn told(&self, entries: usize) {
        let finished = {
            let mut state = self.lock();
            state.untold -= entries;
            state.is_finished()
        };
        if finished {
            self.finished.notify_waiters();
            self.more.together.notify_one();
            self.more.alone.notify_one();
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

    fn has_room(&self, limits: Limits, way: Way, bytes: usize) -> bool {
        let ByWay { together, alone } = &self.unsettled;
        let entries = together.entries + alone.entries;
        let all_bytes = together.bytes.saturating_add(alone.bytes).saturating_add(bytes);
        let fits = entries < limits.entries && all_bytes <= limits.bytes;
        match way {
            Way::Together => fits,
            Way::Alone => {
                let is_first = alone.entries == 0;
                let bytes = alone.bytes.saturating_add(bytes);
                let fits_half =
                    alone.entries < limits.entries.div_ceil(2) && bytes <= limits.bytes / 2;
                fits && (is_first || fits_half)
            }
        }
    }

    /// Puts an entry at the end of a queue, and says whether it was empty.
    fn enqueue(&mut self, way: Way, entry: Entry<T>) -> bool {
        let unsettled = self.unsettled.of_mut(way);
        unsettled.entries += 1;
        unsettled.bytes += entry.debt.bytes;
        let queue = self.queues.of_mut(way);
        queue.push_back(entry);
        queue.len() == 1
    }

    fn release(&mut self, way: Way, entries: usize, bytes: usize) {
        let unsettled = self.unsettled.of_mut(way);
        unsettled.entries -= entries;
        unsettled.bytes -= bytes;
    }
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Together => Self::Alone,
            Self::Alone => Self::Together,
        }
    }
}

impl<V> ByWay<V> {
    fn of(&self, way: Way) -> &V {
        match way {
            Way::Together => &self.together,
            Way::Alone => &self.alone,
        }
    }

    fn of_mut(&mut self, way: Way) -> &mut V {
        match way {
            Way::Together => &mut self.together,
            Way::Alone => &mut self.alone,
        }
    }
}

impl<T> Batch<T> {
    /// Splits off the entries that are not to stay, if there are any.
    pub(crate) fn split_off(&mut self, stays: impl Fn(&T) -> bool) -> Option<Self> {
        if self.items.iter().all(&stays) {
            return None;
        }
        let items = std::mem::take(&mut self.items);
        let debts = std::mem::take(&mut self.owed.debts);
        let mut others = Vec::new();
        let mut owed =
            Owed { debts: Vec::new(), way: self.owed.way, waiting: Arc::clone(&self.owed.waiting) };
        for (item, debt) in items.into_iter().zip(debts) {
            if stays(&item) {
                self.items.push(item);
                self.owed.debts.push(debt);
            } else {
                others.push(item);
                owed.debts.push(debt);
            }
        }
        Some(Self { items: others, owed })
    }
}

impl<T> Owed<T> {
    /// Gives each caller its outcome, in the order of the batch's items.
    pub(crate) fn settle(mut self, outcomes: impl IntoIterator<Item = PublishOutcome>) {
        let debts = std::mem::take(&mut self.debts);
        let entries = debts.len();
        self.waiting.make_room(self.way, &debts);
        for (debt, outcome) in debts.into_iter().zip(outcomes) {
            // The send fails if the caller no longer waits, which it is free to do.
            let _ = debt.outcome.send(outcome);
        }
        self.waiting.told(entries);
    }

    /// Gives all callers the same outcome.
    pub(crate) fn settle_all(self, outcome: PublishOutcome) {
        self.settle(std::iter::repeat(outcome));
    }

    /// Splits off the callers from `at` on.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let debts = self.debts.split_off(at);
        Self { debts, way: self.way, waiting: Arc::clone(&self.waiting) }
    }
}

impl<T> Drop for Owed<T> {
    fn drop(&mut self) {
        let debts = std::mem::take(&mut self.debts);
        let entries = debts.len();
        self.waiting.make_room(self.way, &debts);
        drop(debts);
        self.waiting.told(entries);
    }
}

#[cfg(test)]
mod tests;

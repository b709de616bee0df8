//! A walk over the enlisted ids, and how far it is.

use std::collections::BTreeSet;

use countersign_protocol::{MessageId, UnixMillis};

use crate::record::EnlistedMessage;

/// A walk from old ids to new ones.
///
/// The walk keeps two places. The callback service knows every id up to `settled`; the database
/// stores only that place. Every id up to `reached` is known or has a fresh check. The walk goes on
/// from `reached`. The next walk begins at `settled`, when the callback service must have looked
/// the fresh checks up, and asks once more about the ids between. So the sweep passes an id for
/// good only when the callback service knows it, and within a walk no id gets two checks. A process
/// that dies loses `reached` alone: its successor arms some checks a second time, which changes
/// nothing.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The last `settled` that the database has.
    stored: Option<MessageId>,
    settled: Option<MessageId>,
    reached: Option<MessageId>,
    newest: UnixMillis,
    has_rearmed: bool,
    pub(crate) too_old: usize,
}

impl Walk {
    /// A walk from this place up to ids made before `newest`.
    pub(crate) fn new(settled: Option<MessageId>, newest: UnixMillis) -> Self {
        let (stored, reached) = (settled, settled);
        Self { stored, settled, reached, newest, has_rearmed: false, too_old: 0 }
    }

    /// The place that the database has.
    pub(crate) fn stored(&self) -> Option<MessageId> {
        self.stored
    }

    /// Notes that the database has `settled`.
    pub(crate) fn store(&mut self) {
        self.stored = self.settled;
    }

    /// The callback service knows every id up to this one.
    pub(crate) fn settled(&self) -> Option<MessageId> {
        self.settled
    }

    /// The next page begins after this id.
    pub(crate) fn reached(&self) -> Option<MessageId> {
        self.reached
    }

    /// Ids of this time and later are too young to ask about.
    pub(crate) fn newest(&self) -> UnixMillis {
        self.newest
    }

    /// Whether a message got a fresh check that the callback service has still to look up.
    pub(crate) fn has_rearmed(&self) -> bool {
        self.has_rearmed
    }

    /// Notes that the callback service knows all of this page but `forgotten`. Returns the messages
    /// to arm again, oldest first.
    pub(crate) fn ask(
        &mut self,
        page: Vec<EnlistedMessage>,
        forgotten: &BTreeSet<MessageId>,
    ) -> Vec<EnlistedMessage> {
        let known = page.iter().take_while(|message| !forgotten.contains(&message.id));
        if let Some(last) = known.last() {
            self.pass(last.id);
        }
        page.into_iter().filter(|message| forgotten.contains(&message.id)).collect()
    }

    /// Notes that the broker holds fresh checks for everything forgotten up to this id.
    pub(crate) fn rearmed(&mut self, last: MessageId) {
        self.has_rearmed = true;
        self.reached = Some(last);
    }

    /// Notes that every id up to this one is known or has a fresh check.
    pub(crate) fn pass(&mut self, last: MessageId) {
        self.reached = Some(last);
        if !self.has_rearmed {
            self.settled = self.reached;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids in ascending order.
    fn page(numbers: std::ops::Range<i64>) -> Vec<EnlistedMessage> {
        let message = |number| EnlistedMessage { id: id(number), consumers: Vec::new() };
        numbers.map(message).collect()
    }

    fn id(number: i64) -> MessageId {
        MessageId::from_parts(UnixMillis::from_ms(number), [0; 10])
    }

    fn ids(messages: &[EnlistedMessage]) -> Vec<MessageId> {
        messages.iter().map(|message| message.id).collect()
    }

    /// One walk over pages of ten, of which the callback service knows all but `forgotten`. Returns
    /// the ids that were armed.
    fn walk(walk: &mut Walk, to: i64, forgotten: &BTreeSet<MessageId>) -> Vec<MessageId> {
        let mut armed = Vec::new();
        loop {
            let begin = walk.reached().map_or(0, |reached| reached.time().ms() + 1);
            let page = page(begin..to.min(begin + 10));
            let Some(last) = page.last().map(|message| message.id) else { break };
            for message in walk.ask(page, forgotten) {
                walk.rearmed(message.id);
                armed.push(message.id);
            }
            walk.pass(last);
        }
        armed
    }

    fn at(position: Option<MessageId>) -> Walk {
        Walk::new(position, UnixMillis::from_ms(i64::MAX))
    }

    #[test]
    fn a_walk_that_finds_everything_known_leaves_it_behind() {
        let mut first = at(None);
        assert_eq!(walk(&mut first, 25, &BTreeSet::new()), []);
        assert_eq!((first.settled(), first.has_rearmed()), (Some(id(24)), false));
    }

    #[test]
    fn what_was_armed_is_passed_only_when_it_is_known_and_armed_once_in_a_walk() {
        let lost: BTreeSet<MessageId> = [3, 12, 13, 24].map(id).into();
        let mut first = at(None);
        assert_eq!(walk(&mut first, 25, &lost), Vec::from_iter(lost.iter().copied()));
        assert_eq!((first.settled(), first.reached()), (Some(id(2)), Some(id(24))));

        // The second check of one was lost, too; ten more have been enlisted.
        let mut second = at(first.settled());
        let lost_again = [id(12)].into();
        assert_eq!(walk(&mut second, 35, &lost_again), [id(12)]);
        assert_eq!(second.settled(), Some(id(11)));

        let mut third = at(second.settled());
        assert_eq!(walk(&mut third, 35, &BTreeSet::new()), []);
        assert_eq!((third.settled(), third.has_rearmed()), (Some(id(34)), false));
    }

    #[test]
    fn trouble_in_the_middle_of_a_page_arms_nothing_twice_and_skips_nothing() {
        let mut interrupted = at(None);
        let lost: BTreeSet<MessageId> = [2, 5, 8].map(id).into();
        assert_eq!(ids(&interrupted.ask(page(0..10), &lost)), [2, 5, 8].map(id));
        interrupted.rearmed(id(2));
        // The broker goes away. The walk does not ask again about ids that are known or armed
        // already.
        assert_eq!((interrupted.settled(), interrupted.reached()), (Some(id(1)), Some(id(2))));
        assert_eq!(walk(&mut interrupted, 10, &lost), [5, 8].map(id));
        assert_eq!(interrupted.settled(), Some(id(1)));
    }

    #[test]
    fn a_process_that_dies_leaves_the_place_before_what_nobody_knows_yet() {
        let mut dying = at(Some(id(4)));
        let lost: BTreeSet<MessageId> = [id(5)].into();
        walk(&mut dying, 25, &lost);
        dying.store();
        let mut successor = at(dying.stored());
        assert_eq!(walk(&mut successor, 25, &lost), [id(5)], "a second check changes nothing");
    }
}

//! Whether a queue's consumers have passed what lay in it at some moment: told by counting their confirms.
//!
//! A queue is first in, first out. When consumers have confirmed more messages than a reading found in the
//! queue, ready or in their hands, one of these has entered after the reading; so all that was ready then
//! has been delivered before. This needs no word about when a message was published, and no other
//! message of the same upstream. It does not hold for a queue with priorities.

use countersign_protocol::UnixMillis;

/// The most messages that a quorum queue lets one consumer hold
/// (<https://www.rabbitmq.com/docs/quorum-queues>).
const HELD_BY_ONE: u64 = 2_000;

/// A count of confirms that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passing {
    /// The reading that it began with, on the database's clock: what lay in the queue before.
    pub(crate) read_at: UnixMillis,
    /// More confirms than this are needed.
    pub(crate) need: u64,
    /// How many confirms were recorded when everything was that had left the queue before the reading.
    /// `None` while that is not known.
    pub(crate) base: Option<u64>,
}

/// What is known when a queue is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// When the reading was begun, on the database's clock.
    pub(crate) read_at: UnixMillis,
    /// What no consumer holds.
    pub(crate) ready: u64,
    /// How many consumers the queue has.
    pub(crate) consumers: u64,
    /// How many messages that came through the queue are recorded as confirmed, each counted once.
    pub(crate) confirms: u64,
    /// What was with the broker before this moment is recorded.
    pub(crate) watermark: Option<UnixMillis>,
}

impl Passing {
    /// The moment after which a marker has to be sent for the count to begin.
    #[must_use]
    pub(crate) fn awaits(self) -> Option<UnixMillis> {
        self.base.is_none().then_some(self.read_at)
    }

    /// The count after one more reading; and the moment before which everything that lay in the queue
    /// has been passed, if the count has come to its end.
    #[must_use]
    pub(crate) fn after(passing: Option<Self>, now: &Counted) -> (Self, Option<UnixMillis>) {
        let first = Self {
            read_at: now.read_at,
            need: now.ready.saturating_add(HELD_BY_ONE.saturating_mul(now.consumers)),
            base: None,
        };
        let Some(passing) = passing else { return (first, None) };
        let recorded = now.watermark.is_some_and(|mark| mark > passing.read_at);
        match passing.base {
            // A base that is taken late is too great, so that the count ends later.
            None if recorded => (Self { base: Some(now.confirms), ..passing }, None),
            Some(base) if now.confirms.saturating_sub(base) > passing.need => {
                (first, Some(passing.read_at))
            }
            // What was known of the queue's consumers has been forgotten since.
            Some(base) if now.confirms < base => (first, None),
            None | Some(_) => (passing, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::fixture::in_s;

    fn counted(at_s: i64, ready: u64, confirms: u64, watermark_s: i64) -> Counted {
        let (read_at, watermark) = (in_s(at_s), Some(in_s(watermark_s)));
        Counted { read_at, ready, consumers: 1, confirms, watermark }
    }

    #[test]
    fn a_queue_is_passed_when_more_was_confirmed_than_lay_in_it_and_in_hands() {
        let (begun, none) = Passing::after(None, &counted(10, 30, 1_000, 9));
        assert_eq!((begun.need, begun.awaits(), none), (2_030, Some(in_s(10)), None));
        let (waits, none) = Passing::after(Some(begun), &counted(11, 99, 5_000, 10));
        assert_eq!((waits, none), (begun, None), "what left before may be recorded later");
        let (based, none) = Passing::after(Some(begun), &counted(12, 99, 6_000, 11));
        assert_eq!((based.base, based.awaits(), none), (Some(6_000), None, None));
        let (goes_on, none) = Passing::after(Some(based), &counted(13, 99, 8_030, 12));
        assert_eq!((goes_on, none), (based, None));
        let (anew, passed) = Passing::after(Some(based), &counted(14, 7, 8_031, 13));
        assert_eq!(passed, Some(in_s(10)));
        assert_eq!((anew.read_at, anew.need, anew.base), (in_s(14), 2_007, None));
        let (forgotten, none) = Passing::after(Some(based), &counted(14, 7, 5, 13));
        assert_eq!((forgotten, none), (anew, None));
    }
}

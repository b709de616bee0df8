//! The sweep's head: how far behind the newest ids it is, and what it has to ask about again.

use std::time::Duration;

use countersign_protocol::{MessageId, UnixMillis};
use tokio::time::Instant;

/// The head only goes forward, from old ids to new ones.
///
/// It keeps two places. The callback service knows every id up to `settled`; the database stores
/// only that place. Every id up to `reached` is known or has a fresh check, and the head goes on from
/// there. What lies between and holds fresh checks is a [`Stretch`]: the sweep asks about it once
/// more when the callback service must have looked these checks up. So the sweep passes an id for good only
/// when the callback service knows it, and asks about nothing else twice. A process that dies loses all but
/// `settled`: its successor arms some checks a second time, which changes nothing.
#[derive(Debug)]
pub(crate) struct Head {
    /// The last `settled` that the database has.
    stored: Option<MessageId>,
    reached: Option<MessageId>,
    /// By place, the oldest first; they do not overlap.
    pending: Vec<Stretch>,
}

/// Ids of which some have a fresh check that the callback service has still to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The stretch begins after this id.
    pub(crate) after: Option<MessageId>,
    /// The last id of the stretch.
    pub(crate) last: MessageId,
    /// When the sweep asks about it again.
    pub(crate) again_at: Instant,
    /// Its length in time is bounded, see [`ONE_STRETCH`].
    opened_at: Instant,
}

/// Checks that are armed within so long are asked about together. So there are at most 8,700
/// stretches, for a check delay of a day, however much was lost: each takes 72 bytes.
const ONE_STRETCH: Duration = Duration::from_secs(10);

/// A head that is so far ahead of the newest id to ask about was moved there by a clock that was
/// wrong for a while. By one that is right it is never ahead at all.
const FAR_AHEAD: Duration = Duration::from_secs(60);

impl Head {
    /// A head that goes on from this place.
    pub(crate) fn new(settled: Option<MessageId>) -> Self {
        Self { stored: settled, reached: settled, pending: Vec::new() }
    }

    /// The place that the database has.
    pub(crate) fn stored(&self) -> Option<MessageId> {
        self.stored
    }

    /// Notes that the database has this place.
    pub(crate) fn store(&mut self, settled: Option<MessageId>) {
        self.stored = settled;
    }

    /// The callback service knows every id up to this one.
    pub(crate) fn settled(&self) -> Option<MessageId> {
        self.pending.first().map_or(self.reached, |first| first.after)
    }

    /// The next page begins after this id.
    pub(crate) fn reached(&self) -> Option<MessageId> {
        self.reached
    }

    /// A head that has no place yet, or stands where a wrong clock has moved it, begins here.
    pub(crate) fn begin_at(&mut self, begin: UnixMillis, newest: UnixMillis) {
        let is_far_ahead = |reached: MessageId| reached.time() > newest.after(FAR_AHEAD);
        if self.reached.is_none_or(is_far_ahead) {
            self.pending.clear();
            self.reached = Some(place(begin));
        }
    }

    /// Notes that every id up to this one is known or has a fresh check.
    pub(crate) fn pass(&mut self, last: MessageId) {
        self.reached = self.reached.max(Some(last));
    }

    /// Notes that the broker holds fresh checks for what was not known up to this id.
    pub(crate) fn armed(&mut self, last: MessageId, now: Instant, again_at: Instant) {
        let after = self.reached;
        extend(&mut self.pending, after, last, now, again_at);
        self.pass(last);
    }

    /// The oldest stretch that the sweep is to ask about again.
    pub(crate) fn due(&self, now: Instant) -> Option<Stretch> {
        self.pending.iter().find(|stretch| stretch.again_at <= now).copied()
    }

    /// Notes that all of this stretch is known but for what was armed again.
    pub(crate) fn settle(&mut self, stretch: Stretch, armed_again: Vec<Stretch>) {
        if let Some(at) = self.pending.iter().position(|pending| *pending == stretch) {
            self.pending.splice(at..=at, armed_again);
        }
    }
}

/// Adds what was armed after one id and up to another: to the last stretch, if that was opened a
/// moment ago.
pub(crate) fn extend(
    stretches: &mut Vec<Stretch>,
    after: Option<MessageId>,
    last: MessageId,
    now: Instant,
    again_at: Instant,
) {
    match stretches.last_mut() {
        Some(open) if now.duration_since(open.opened_at) < ONE_STRETCH => {
            open.last = last;
            open.again_at = again_at;
        }
        _ => stretches.push(Stretch { after, last, again_at, opened_at: now }),
    }
}

/// The place before all ids of this time.
pub(crate) fn place(time: UnixMillis) -> MessageId {
    MessageId::from_parts(time, [0; 10])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(300);

    fn id(number: i64) -> MessageId {
        place(UnixMillis::from_ms(number))
    }

    fn head() -> (Head, Instant) {
        (Head::new(Some(id(10))), Instant::now())
    }

    #[test]
    fn what_was_armed_is_passed_for_good_only_when_it_is_known() {
        let (mut head, now) = head();
        head.pass(id(20));
        head.armed(id(25), now, now + DELAY);
        head.pass(id(40));
        assert_eq!((head.settled(), head.reached()), (Some(id(20)), Some(id(40))));
        assert_eq!(head.due(now), None, "its check is not due yet");

        let again = head.due(now + DELAY).unwrap();
        assert_eq!((again.after, again.last), (Some(id(20)), id(25)));
        let mut armed_again = Vec::new();
        extend(&mut armed_again, Some(id(21)), id(23), now + DELAY, now + 2 * DELAY);
        head.settle(again, armed_again);
        assert_eq!(head.settled(), Some(id(21)), "the check of one was lost once more");

        let again = head.due(now + 2 * DELAY).unwrap();
        head.settle(again, Vec::new());
        assert_eq!(head.settled(), Some(id(40)));
        assert_eq!(head.pending, []);
    }

    #[test]
    fn a_day_s_losses_are_a_bounded_number_of_stretches() {
        const DAY: u64 = 24 * 60 * 60;
        let (mut head, begin) = head();
        for tenth in 0..10 * DAY {
            let now = begin + Duration::from_millis(100 * tenth);
            let number = i64::try_from(100 * tenth).unwrap() + 11;
            head.armed(id(number), now, now + Duration::from_secs(DAY));
        }
        assert_eq!(head.pending.len(), 8_640);
        assert_eq!(head.settled(), Some(id(10)));
        let mut places = head.pending.windows(2);
        assert!(places.all(|pair| Some(pair[0].last) == pair[1].after), "no id is in none of them");
    }

    #[test]
    fn trouble_in_the_middle_of_a_page_skips_nothing() {
        let (mut head, now) = head();
        head.armed(id(15), now, now + DELAY);
        // The broker goes away. The next page begins after what is armed.
        assert_eq!((head.settled(), head.reached()), (Some(id(10)), Some(id(15))));
    }

    #[test]
    fn a_head_that_a_wrong_clock_moved_ahead_begins_again_and_no_other_goes_back() {
        let hour = i64::try_from(FAR_AHEAD.as_millis()).unwrap();
        let (mut head, _) = head();
        let at = UnixMillis::from_ms;
        head.begin_at(at(5), at(6));
        assert_eq!(head.reached(), Some(id(10)), "a clock may step back a little");
        head.pass(id(100 + hour));
        head.begin_at(at(50), at(99));
        assert_eq!((head.settled(), head.reached()), (Some(id(50)), Some(id(50))));
        let mut first = Head::new(None);
        first.begin_at(at(50), at(60));
        assert_eq!(first.settled(), Some(id(50)));
    }
}

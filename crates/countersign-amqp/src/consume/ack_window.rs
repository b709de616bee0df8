//! Which deliveries of a channel are acked, and how to tell the broker in few frames.
//!
//! A channel numbers its deliveries from 1 without gaps. One `multiple` ack stands for all
//! deliveries up to its number; that number itself must not have been acked before, or the broker
//! closes the channel.

use std::collections::BTreeMap;

/// The acks of one channel. The prefetch bounds its size: between two un-acked deliveries lies at
/// most one range.
#[derive(Debug, Default)]
pub(crate) struct AckWindow {
    /// Acks that the application gave and the broker has not been told.
    given: Vec<u64>,
    /// The broker was told every number up to this one.
    up_to: u64,
    /// Ranges beyond `up_to` that the broker was told: first number to last, none adjacent.
    beyond: BTreeMap<u64, u64>,
}

/// An ack frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) number: u64,
    /// Whether the frame acks all earlier deliveries as well.
    pub(crate) multiple: bool,
}

impl AckWindow {
    /// Takes an ack. Returns whether it is the first since the last [`flush`](Self::flush).
    pub(crate) fn give(&mut self, number: u64) -> bool {
        self.given.push(number);
        self.given.len() == 1
    }

    /// The frames to send to the broker, in this order.
    pub(crate) fn flush(&mut self) -> Vec<Ack> {
        let mut given = std::mem::take(&mut self.given);
        given.sort_unstable();
        given.dedup();
        given.retain(|number| !self.is_told(*number));
        let mut acks = Vec::new();
        let prefix = self.advance(&given);
        if let Some(&number) = prefix.checked_sub(1).and_then(|last| given.get(last)) {
            acks.push(Ack { number, multiple: prefix > 1 });
        }
        for &number in given.iter().skip(prefix) {
            self.tell_beyond(number);
            acks.push(Ack { number, multiple: false });
        }
        given.clear();
        self.given = given;
        acks
    }

    fn is_told(&self, number: u64) -> bool {
        number <= self.up_to
            || self.beyond.range(..=number).next_back().is_some_and(|(_, last)| number <= *last)
    }

    /// Moves `up_to` over the numbers that were told and those in `given`. Returns how many of
    /// `given` that covers.
    fn advance(&mut self, given: &[u64]) -> usize {
        let mut covered = 0;
        loop {
            let next = self.up_to + 1;
            if let Some(last) = self.beyond.remove(&next) {
                self.up_to = last;
            } else if given.get(covered) == Some(&next) {
                self.up_to = next;
                covered += 1;
            } else {
                return covered;
            }
        }
    }

    fn tell_beyond(&mut self, number: u64) {
        let last = self.beyond.remove(&(number + 1)).unwrap_or(number);
        match self.beyond.range_mut(..number).next_back() {
            Some((_, before)) if *before + 1 == number => *before = last,
            _ => {
                self.beyond.insert(number, last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn flushed(window: &mut AckWindow, numbers: &[u64]) -> Vec<(u64, bool)> {
        for number in numbers {
            window.give(*number);
        }
        window.flush().into_iter().map(|ack| (ack.number, ack.multiple)).collect()
    }

    #[test]
    fn a_contiguous_prefix_is_one_frame_in_whatever_order_it_was_given() {
        let mut window = AckWindow::default();
        assert_eq!(flushed(&mut window, &[3, 1, 2]), [(3, true)]);
        assert_eq!(flushed(&mut window, &[4]), [(4, false)]);
        assert_eq!(flushed(&mut window, &[]), []);
    }

    #[test]
    fn beyond_a_gap_each_is_a_frame_of_its_own() {
        let mut window = AckWindow::default();
        assert_eq!(flushed(&mut window, &[5, 1, 2, 4]), [(2, true), (4, false), (5, false)]);
        assert_eq!(flushed(&mut window, &[3, 6]), [(6, true)]);
    }

    #[test]
    fn a_number_told_by_itself_never_ends_a_multiple() {
        let mut window = AckWindow::default();
        assert_eq!(flushed(&mut window, &[2, 3]), [(2, false), (3, false)]);
        assert_eq!(flushed(&mut window, &[1]), [(1, false)], "not 3, multiple");
        assert_eq!(flushed(&mut window, &[4, 5]), [(5, true)]);
    }

    #[test]
    fn a_second_ack_of_the_same_delivery_is_not_told() {
        let mut window = AckWindow::default();
        assert_eq!(flushed(&mut window, &[1, 1, 3, 3]), [(1, false), (3, false)]);
        assert_eq!(flushed(&mut window, &[1, 3]), []);
        assert_eq!(flushed(&mut window, &[2]), [(2, false)]);
        assert_eq!(flushed(&mut window, &[1, 2, 3]), []);
    }

    #[test]
    fn one_that_is_held_long_costs_one_range() {
        let mut window = AckWindow::default();
        for number in 2..10_000 {
            flushed(&mut window, &[number]);
        }
        assert_eq!(window.beyond.len(), 1);
        assert_eq!(flushed(&mut window, &[1]), [(1, false)]);
        assert!(window.beyond.is_empty());
    }

    /// A broker that closes the channel on an ack of a delivery it does not wait for.
    #[derive(Default)]
    struct Broker {
        held: BTreeSet<u64>,
        delivered: u64,
    }

    impl Broker {
        fn deliver(&mut self, count: u64) {
            self.held.extend(self.delivered + 1..=self.delivered + count);
            self.delivered += count;
        }

        fn accept(&mut self, ack: Ack) {
            assert!(self.held.remove(&ack.number), "unknown delivery tag {}", ack.number);
            if ack.multiple {
                self.held.retain(|number| *number > ack.number);
            }
        }
    }

    #[test]
    fn the_broker_hears_of_exactly_what_was_acked_in_any_order() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut broker, mut window) = (Broker::default(), AckWindow::default());
            let mut held = BTreeSet::new();
            for _ in 0..100 {
                let before = broker.delivered;
                broker.deliver(random.u64(..8));
                held.extend(before + 1..=broker.delivered);
                for _ in 0..random.u64(..10) {
                    let at = random.u64(..=held.len() as u64);
                    if let Some(&number) = held.iter().nth(usize::try_from(at).unwrap()) {
                        held.remove(&number);
                        window.give(number);
                    }
                }
                for ack in window.flush() {
                    broker.accept(ack);
                }
                assert_eq!(broker.held, held, "seed {seed}");
                assert!(window.beyond.len() <= held.len());
            }
        }
    }
}

//! What a subscription has been delivered, and what of it has not ended.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_protocol::MessageId;
use tokio::time::Instant;

/// The deliveries of one subscription, which the broker numbers from 1 without gaps. The prefetch bounds
/// how many are in hand.
#[derive(Debug, Default)]
pub(crate) struct Hand {
    taken: u64,
    held: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    /// `None` if the message has no id that can be read.
    id: Option<MessageId>,
    since: Instant,
}

/// What a subscription says of its deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// How many have been delivered.
    pub(crate) taken: u64,
    /// Every delivery up to this number has ended, but for those in `slow`.
    pub(crate) done: u64,
    /// Deliveries that have been in hand for long, oldest first.
    pub(crate) slow: Vec<MessageId>,
}

impl Hand {
    /// A delivery has come.
    pub(crate) fn take(&mut self, number: u64, id: Option<MessageId>, now: Instant) {
        self.taken = self.taken.max(number);
        self.held.insert(number, Held { id, since: now });
    }

    /// A delivery has ended.
    pub(crate) fn end(&mut self, number: u64) {
        self.held.remove(&number);
    }

    /// What stands so: deliveries that have been in hand for `slow_after` count as slow, `most` of them.
    pub(crate) fn told(&self, now: Instant, slow_after: Duration, most: usize) -> Told {
        let mut slow = Vec::new();
        for (number, held) in &self.held {
            let is_slow = now.saturating_duration_since(held.since) >= slow_after;
            match held.id.filter(|_| is_slow && slow.len() < most) {
                Some(id) => slow.push(id),
                None => return Told { taken: self.taken, done: number - 1, slow },
            }
        }
        Told { taken: self.taken, done: self.taken, slow }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(2);

    #[test]
    fn a_slow_delivery_excepts_itself_only() {
        let mut hand = Hand::default();
        let start = Instant::now();
        let told = |hand: &Hand, slow: u32| hand.told(start + SLOW * slow, SLOW, 2);
        assert_eq!(told(&hand, 0), Told { taken: 0, done: 0, slow: vec![] });
        let id = MessageId::generate();
        hand.take(1, Some(id), start);
        hand.take(2, None, start);
        assert_eq!(told(&hand, 0), Told { taken: 2, done: 0, slow: vec![] });
        hand.end(2);
        assert_eq!(told(&hand, 0), Told { taken: 2, done: 0, slow: vec![] });
        assert_eq!(told(&hand, 1), Told { taken: 2, done: 2, slow: vec![id] });
        hand.take(3, None, start + SLOW);
        let without_an_id = Told { taken: 3, done: 2, slow: vec![id] };
        assert_eq!(told(&hand, 2), without_an_id, "what cannot be named cannot be excepted");
        hand.end(1);
        hand.end(3);
        assert_eq!(told(&hand, 2), Told { taken: 3, done: 3, slow: vec![] });
    }

    #[test]
    fn so_many_slow_ones_are_named_and_the_rest_is_not_done() {
        let mut hand = Hand::default();
        let start = Instant::now();
        let ids: Vec<MessageId> = (0..3).map(|_| MessageId::generate()).collect();
        for (id, number) in ids.iter().zip(1..) {
            hand.take(number, Some(*id), start);
        }
        let told = hand.told(start + SLOW, SLOW, 2);
        assert_eq!(told, Told { taken: 3, done: 2, slow: ids[..2].to_vec() });
    }
}

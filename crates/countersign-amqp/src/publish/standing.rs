//! Which exchanges have proved themselves, and which destinations the broker refuses.
//!
//! When the broker refuses a message (no such exchange, no right to write), it closes the channel
//! and drops confirms that it owes to others. So several messages share a channel only when their
//! exchanges have proved themselves; every other message goes alone, where it can harm nobody and
//! the verdict is surely about itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Cause;
use crate::publish::message::Prepared;
use crate::publish::waiting::Way;

/// How long nothing is published to a destination after the broker's first refusal. Whoever made
/// the mistake mends it within seconds at the earliest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest such time: so long a destination that has been mended may still be refused.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How many keys of an exchange that has confirmed nothing may be refused one by one. After that the
/// exchange is refused as a whole: most likely the user has no right to write to it at all.
const MAX_REFUSED_KEYS: usize = 16;
/// An exchange that has confirmed a body is trusted with bodies below the next multiple of this many
/// bytes: bodies of one kind differ a little, and need not prove themselves one by one. A broker's
/// limit within a step costs a channel that is shared, once.
const BODY_STEP: usize = 64 * 1024;
/// How many exchanges, and how many refusals, are remembered. A publisher knows a handful; names
/// made from data must not fill the memory.
const MAX_REMEMBERED: usize = 1_000;

/// What the publisher knows about exchanges. It outlives the connection.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    proven: HashMap<String, Proven>,
    refused: HashMap<String, Refused>,
}

pub(crate) fn lock(standings: &Mutex<Standings>) -> MutexGuard<'_, Standings> {
    standings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an exchange has proved.
#[derive(Clone, Copy, Debug, Default)]
struct Proven {
    /// Bodies of fewer bytes leave together.
    below: usize,
    /// The broker has refused a body of so many bytes: such a body leaves alone.
    refused_from: Option<usize>,
}

/// What the broker refuses at one exchange.
#[derive(Debug, Default)]
struct Refused {
    all: Option<Refusal>,
    keys: HashMap<String, Refusal>,
}

#[derive(Debug)]
struct Refusal {
    why: String,
    pause: Duration,
    until: Instant,
}

/// How a message may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Admitted(Way),
    /// The broker refused the destination a moment ago.
    Refused {
        why: String,
    },
}

impl Standings {
    pub(crate) fn admit(&self, message: &Prepared, now: Instant) -> Admission {
        let (exchange, key) = (message.exchange.as_str(), message.key.as_str());
        if let Some(refusal) = self.refusal(exchange, key) {
            if now < refusal.until {
                return Admission::Refused { why: refusal.why.clone() };
            }
            return Admission::Admitted(Way::Alone);
        }
        let bytes = message.body.len();
        let is_proven = self.proven.get(exchange).is_some_and(|proven| proven.covers(bytes));
        Admission::Admitted(if is_proven { Way::Together } else { Way::Alone })
    }

    /// Why the broker does not take messages to this destination, as long as it is not asked again.
    pub(crate) fn refuses(&self, exchange: &str, key: &str, now: Instant) -> Option<&str> {
        let refusal = self.refusal(exchange, key)?;
        (now < refusal.until).then_some(refusal.why.as_str())
    }

    fn refusal(&self, exchange: &str, key: &str) -> Option<&Refusal> {
        let refused = self.refused.get(exchange)?;
        refused.all.as_ref().or_else(|| refused.keys.get(key))
    }

    /// The broker has confirmed a message that was alone, or returned it: the exchange is there,
    /// may be written to and takes bodies of this size.
    pub(crate) fn proved(&mut self, exchange: &str, key: &str, bytes: usize) {
        if let Some(refused) = self.refused.get_mut(exchange) {
            refused.all = None;
            refused.keys.remove(key);
            if refused.keys.is_empty() {
                self.refused.remove(exchange);
            }
        }
        self.proven(exchange).confirmed(bytes);
    }

    fn proven(&mut self, exchange: &str) -> &mut Proven {
        if self.proven.len() >= MAX_REMEMBERED && !self.proven.contains_key(exchange) {
            // Each exchange proves itself again with its next message.
            self.proven.clear();
        }
        self.proven.entry(exchange.to_owned()).or_default()
    }

    /// The broker closed a channel on which this exchange's messages had company: which message it
    /// meant is not known, so the exchange has to prove itself again.
    pub(crate) fn doubted(&mut self, exchange: &str) {
        if let Some(proven) = self.proven.get_mut(exchange) {
            proven.below = 0;
        }
    }

    /// The broker closed the channel of a message that was alone.
    pub(crate) fn refused(
        &mut self,
        exchange: &str,
        key: &str,
        bytes: usize,
        cause: Cause,
        why: &str,
        now: Instant,
    ) {
        if cause == Cause::Message {
            self.proven(exchange).refused(bytes);
            return;
        }
        if self.refused.len() >= MAX_REMEMBERED && !self.refused.contains_key(exchange) {
            // A destination that is forgotten costs one more refusal.
            self.refused.clear();
        }
        let is_proven = self.proven.get(exchange).is_some_and(|proven| proven.below > 0);
        let refused = self.refused.entry(exchange.to_owned()).or_default();
        let is_all = cause == Cause::NoExchange
            || refused.all.is_some()
            || (!is_proven && refused.keys.len() >= MAX_REFUSED_KEYS);
        if is_all {
            refused.keys.clear();
            refused.all = Some(Refusal::next(refused.all.as_ref(), why, now));
            self.proven.remove(exchange);
        } else {
            if refused.keys.len() >= MAX_REMEMBERED && !refused.keys.contains_key(key) {
                refused.keys.clear();
            }
            let next = Refusal::next(refused.keys.get(key), why, now);
            refused.keys.insert(key.to_owned(), next);
        }
    }
}

impl Proven {
    fn covers(self, bytes: usize) -> bool {
        bytes < self.below && self.refused_from.is_none_or(|from| bytes < from)
    }

    fn confirmed(&mut self, bytes: usize) {
        self.below = self.below.max((bytes / BODY_STEP + 1).saturating_mul(BODY_STEP));
        // The broker takes larger bodies than it did.
        self.refused_from = self.refused_from.filter(|from| bytes < *from);
    }

    fn refused(&mut self, bytes: usize) {
        self.refused_from = Some(self.refused_from.map_or(bytes, |from| from.min(bytes)));
    }
}

impl Refusal {
    fn next(last: Option<&Self>, why: &str, now: Instant) -> Self {
        let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        Self { why: why.to_owned(), pause, until: now + pause }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::publish::message::{Outgoing, Properties, prepare};

    const TOGETHER: Admission = Admission::Admitted(Way::Together);
    const ALONE: Admission = Admission::Admitted(Way::Alone);

    fn message(exchange: &str, key: &str, bytes: usize) -> Prepared {
        prepare(Outgoing {
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            properties: Properties::default(),
            body: Bytes::from(vec![b'x'; bytes]),
        })
        .unwrap()
    }

    fn refusal(why: &str) -> Admission {
        Admission::Refused { why: why.to_owned() }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn an_exchange_proves_itself_for_bodies_up_to_the_next_step() {
        let now = Instant::now();
        let mut standings = Standings::default();
        assert_eq!(standings.admit(&message("x", "k", 10), now), ALONE, "not known yet");
        standings.proved("x", "k", BODY_STEP);
        standings.proved("x", "k", 5);
        assert_eq!(standings.admit(&message("x", "other", 2 * BODY_STEP - 1), now), TOGETHER);
        assert_eq!(standings.admit(&message("x", "k", 2 * BODY_STEP), now), ALONE, "larger");
        assert_eq!(standings.admit(&message("y", "k", 1), now), ALONE, "another exchange");
    }

    #[test]
    fn an_exchange_that_had_company_when_a_channel_was_closed_proves_itself_again() {
        let now = Instant::now();
        let mut standings = Standings::default();
        standings.proved("x", "k", 10);
        standings.doubted("x");
        assert_eq!(standings.admit(&message("x", "k", 1), now), ALONE);
        standings.proved("x", "k", 1);
        assert_eq!(standings.admit(&message("x", "k", 1), now), TOGETHER);
    }

    #[test]
    fn a_missing_exchange_is_refused_for_a_growing_while_and_then_tried_alone() {
        let mut now = Instant::now();
        let mut standings = Standings::default();
        standings.proved("x", "k", 10);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            standings.refused("x", "k", 1, Cause::NoExchange, "404", now);
            let last = now + seconds(pause) - Duration::from_millis(1);
            assert_eq!(standings.admit(&message("x", "any", 1), last), refusal("404"), "{pause}");
            assert_eq!(standings.refuses("x", "any", last), Some("404"));
            now += seconds(pause);
            assert_eq!(standings.admit(&message("x", "any", 1), now), ALONE, "{pause}");
            assert_eq!(standings.refuses("x", "any", now), None);
        }
        standings.proved("x", "any", 1);
        assert_eq!(standings.admit(&message("x", "k", 1), now), TOGETHER, "it is there now");
    }

    #[test]
    fn a_missing_right_concerns_the_key_alone() {
        let now = Instant::now();
        let mut standings = Standings::default();
        standings.proved("x", "mine", 10);
        standings.refused("x", "yours", 1, Cause::NoRight, "403", now);
        assert_eq!(standings.admit(&message("x", "yours", 1), now), refusal("403"));
        assert_eq!(standings.admit(&message("x", "mine", 1), now), TOGETHER);
        let later = now + seconds(1);
        assert_eq!(standings.admit(&message("x", "yours", 1), later), ALONE);
        standings.proved("x", "yours", 1);
        assert_eq!(standings.admit(&message("x", "yours", 1), later), TOGETHER);
    }

    #[test]
    fn an_exchange_that_refuses_key_after_key_is_refused_as_a_whole_unless_it_took_any() {
        let now = Instant::now();
        for (is_proven, expected) in [(false, refusal("403")), (true, TOGETHER)] {
            let mut standings = Standings::default();
            if is_proven {
                standings.proved("x", "mine", 10);
            }
            for number in 0..=MAX_REFUSED_KEYS {
                let key = number.to_string();
                standings.refused("x", &key, 1, Cause::NoRight, "403", now);
            }
            assert_eq!(standings.admit(&message("x", "another", 1), now), expected);
        }
    }

    #[test]
    fn a_refused_body_refuses_no_other_and_bodies_as_large_leave_alone() {
        let now = Instant::now();
        let mut standings = Standings::default();
        standings.proved("x", "k", 10);
        standings.refused("x", "k", 30, Cause::Message, "406", now);
        standings.refused("x", "k", 20, Cause::Message, "406", now);
        standings.refused("x", "k", 40, Cause::Message, "406", now);
        assert_eq!(standings.admit(&message("x", "k", 19), now), TOGETHER);
        assert_eq!(standings.admit(&message("x", "k", 20), now), ALONE);
        standings.proved("x", "k", 20);
        assert_eq!(standings.admit(&message("x", "k", 40), now), TOGETHER, "the limit was raised");
    }

    #[test]
    fn names_made_from_data_do_not_fill_the_memory() {
        let now = Instant::now();
        let mut standings = Standings::default();
        standings.proved("x", "k", 10);
        for number in 0..3 * MAX_REMEMBERED {
            let name = number.to_string();
            standings.refused(&name, "k", 1, Cause::NoExchange, "404", now);
            standings.refused("x", &name, 1, Cause::NoRight, "403", now);
            standings.proved(&format!("proven {number}"), "k", 1);
            standings.proved("x", "k", 10);
        }
        assert!(standings.proven.len() <= MAX_REMEMBERED);
        assert!(standings.refused.len() <= MAX_REMEMBERED);
        assert!(standings.refused["x"].keys.len() <= MAX_REMEMBERED);
    }
}

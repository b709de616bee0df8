//! What a party has in hand, and since when: for its readiness.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What a party has in hand. A clone is the same one.
///
/// A party that is idle has nothing in hand and is well. A party that is stuck has had the same thing in
/// hand for a minute.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Things>>);

#[derive(Debug, Default)]
struct Things {
    begun: u64,
    /// In the order in which they were begun.
    in_hand: BTreeMap<u64, (Instant, Cow<'static, str>)>,
}

/// A thing in hand, until it is dropped.
#[derive(Debug)]
#[must_use = "dropped, the thing is done"]
pub struct InHand {
    pulse: Pulse,
    number: u64,
}

impl Pulse {
    /// Nothing in hand.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes something in hand. `what`: a verb in the infinitive, since the problem is told as
    /// "cannot …".
    pub fn begin(&self, what: impl Into<Cow<'static, str>>) -> InHand {
        let mut things = self.things();
        let number = things.begun;
        things.begun += 1;
        things.in_hand.insert(number, (Instant::now(), what.into()));
        InHand { pulse: self.clone(), number }
    }

    /// What has been in hand for longest, if that is for `limit` or longer.
    #[must_use]
    pub fn stuck(&self, limit: Duration) -> Option<String> {
        let things = self.things();
        let (since, what) = things.in_hand.values().next()?;
        let age = since.elapsed();
        (age >= limit).then(|| format!("cannot {what} for {} s", age.as_secs()))
    }

    fn things(&self) -> MutexGuard<'_, Things> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.pulse.things().in_hand.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn who_has_nothing_in_hand_is_well_however_long() {
        let pulse = Pulse::new();
        drop(pulse.begin("store a batch"));
        tokio::time::advance(10 * MINUTE).await;
        assert_eq!(pulse.stuck(MINUTE), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_thing_in_hand_tells_and_its_end_makes_well() {
        let pulse = Pulse::new();
        let old = pulse.clone().begin("store a batch");
        tokio::time::advance(MINUTE / 2).await;
        let young = pulse.begin("look for overdue messages");
        assert_eq!(pulse.stuck(MINUTE), None);
        tokio::time::advance(MINUTE / 2).await;
        assert_eq!(pulse.stuck(MINUTE).as_deref(), Some("cannot store a batch for 60 s"));
        drop(old);
        assert_eq!(pulse.stuck(MINUTE), None);
        tokio::time::advance(MINUTE / 2).await;
        assert!(pulse.stuck(MINUTE).is_some());
        drop(young);
        assert_eq!(pulse.stuck(MINUTE), None);
    }
}

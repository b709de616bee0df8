//! The schedule of the harm, drawn from the seed.
//!
//! Moments are counted in orders placed, not in seconds, so that every harm meets load whatever
//! the rate and however slow the machine.

use std::ops::Range;
use std::time::Duration;

/// A kind of harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Harm {
    /// SIGKILL logistics in the midst of a rush.
    KillLogistics,
    /// SIGKILL logistics, let messages pile up, and purge its queue.
    DestroyMessages,
    /// SIGKILL callback, let confirms pile up, and purge its queue.
    DestroyConfirms,
    /// SIGKILL orders in the midst of a rush.
    KillOrders,
}

/// Every harm of a run.
const HARMS: [Harm; 5] = [
    Harm::KillLogistics,
    Harm::KillLogistics,
    Harm::DestroyMessages,
    Harm::DestroyConfirms,
    Harm::KillOrders,
];

/// The part of all orders among which harm is done. The quiet before lets a newcomer see the path
/// run, and load follows the last harm.
const AMONG: Range<f64> = 0.08..0.92;
/// The director reads messages before it destroys them, to count them, and a reader holds 2,000 at
/// most.
const MOST_DESTROYED: u64 = 1_000;
/// How long a killed service stays down, in milliseconds.
const DOWN_MS: Range<u64> = 300..1_200;

/// A harm and its moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) harm: Harm,
    /// It begins when this many orders are placed.
    pub(crate) at: u64,
    /// How many orders the harm takes: the rush in whose midst a service is killed, or those whose
    /// messages or confirms pile up and are destroyed. The next harm begins after them.
    pub(crate) orders: u64,
    /// After how many orders of a rush the kill comes.
    pub(crate) kill_after: u64,
    /// How long the killed service stays down at least.
    pub(crate) down: Duration,
}

/// All harms of a run among `orders` orders, in their order. Each kind is always there; order,
/// moments and sizes come from the seed.
pub(crate) fn draw(seed: u64, orders: u64) -> Vec<Planned> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut harms = HARMS;
    random.shuffle(&mut harms);
    #[expect(clippy::cast_precision_loss, reason = "at most a million")]
    let all = orders as f64;
    #[expect(clippy::cast_precision_loss, reason = "five")]
    let slot = (AMONG.end - AMONG.start) * all / HARMS.len() as f64;
    let mut begin = AMONG.start * all;
    let planned = harms.map(|harm| {
        // The harm begins in the first half of its slot, so that the second half holds its orders.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a million"
        )]
        let at = (begin + random.f64() * slot / 2.0) as u64;
        begin += slot;
        // At most half a slot's orders, so that they end before the next one's first half begins.
        let orders = match harm {
            Harm::KillLogistics | Harm::KillOrders => random.u64(orders / 25..=orders / 12),
            Harm::DestroyMessages | Harm::DestroyConfirms => {
                random.u64((orders / 60).min(MOST_DESTROYED)..=(orders / 20).min(MOST_DESTROYED))
            }
        }
        .max(1);
        let kill_after = random.u64(orders.div_ceil(4)..=orders.div_ceil(2));
        let down = Duration::from_millis(random.u64(DOWN_MS));
        Planned { harm, at, orders, kill_after, down }
    });
    planned.to_vec()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_kind_happens_and_no_harm_begins_before_the_one_before_has_its_orders(
            seed: u64,
            orders in 20_u64..=1_000_000,
        ) {
            let planned = draw(seed, orders);
            let mut kinds: HashMap<Harm, usize> = HashMap::new();
            for harm in &planned {
                *kinds.entry(harm.harm).or_default() += 1;
            }
            prop_assert_eq!(kinds, HashMap::from([
                (Harm::KillLogistics, 2),
                (Harm::DestroyMessages, 1),
                (Harm::DestroyConfirms, 1),
                (Harm::KillOrders, 1),
            ]));
            for pair in planned.windows(2) {
                prop_assert!(pair[0].at + pair[0].orders <= pair[1].at, "{:?}", planned);
            }
            let last = planned.last().unwrap();
            prop_assert!(last.at + last.orders <= orders);
            prop_assert!(planned.iter().all(|p| (1..=p.orders).contains(&p.kill_after)));
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_one_other_moments() {
        assert_eq!(draw(7, 3_000), draw(7, 3_000));
        assert_ne!(draw(7, 3_000), draw(8, 3_000));
    }

    #[test]
    fn of_3_000_orders_at_least_50_messages_and_50_confirms_are_destroyed() {
        for seed in 0..1_000 {
            assert!(draw(seed, 3_000).iter().all(|planned| planned.orders >= 50));
        }
    }
}

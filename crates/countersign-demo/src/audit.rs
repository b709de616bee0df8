//! What became of every order, from what the databases say.

use std::collections::HashMap;

use uuid::Uuid;

/// What the three databases say. Nothing in it was counted while the demo ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fates {
    /// Database `orders`, table `orders`: what is committed.
    pub(crate) orders: Vec<Order>,
    /// Database `logistics`, table `shipments`: how many each order has.
    pub(crate) shipments: HashMap<Uuid, u64>,
    /// Database `logistics`, table `countersign.inbox`: deliveries found to have had their effect.
    pub(crate) duplicates_suppressed: u64,
    /// Database `callback`, table `overdue`: its rows by message.
    pub(crate) ledger: HashMap<Uuid, Overdue>,
}

/// A committed order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) order_id: Uuid,
    pub(crate) message_id: Uuid,
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) state: String,
    pub(crate) reason: String,
    /// Resends asked for.
    pub(crate) resends: u64,
}

impl Overdue {
    /// Whether it ended with a reason that a person can read, instead of with a confirm.
    fn is_set_aside(&self) -> bool {
        matches!(&*self.state, "parked" | "withdrawn")
    }
}

/// The figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Committed orders.
    pub(crate) placed: u64,
    /// Committed orders with at least one shipment.
    pub(crate) shipped: u64,
    /// Shipments beyond the first of an order.
    pub(crate) doubled: u64,
    /// Shipments of orders that were never committed.
    pub(crate) unordered: u64,
    /// Resends asked for by the callback service.
    pub(crate) resends: u64,
    /// Deliveries whose effect was already there.
    pub(crate) duplicates_suppressed: u64,
    /// Committed orders that stand in the parked list (or were withdrawn), with a reason.
    pub(crate) parked: u64,
    /// Committed orders neither shipped nor parked.
    pub(crate) lost: Vec<Lost>,
}

/// An order nobody has accounted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) order: Order,
    /// What the ledger says about its message, if anything.
    pub(crate) ledger: Option<Overdue>,
}

/// Counts.
pub(crate) fn audit(fates: &Fates) -> Audit {
    let mut audit = Audit {
        placed: count(fates.orders.len()),
        doubled: fates.shipments.values().map(|shipments| shipments.saturating_sub(1)).sum(),
        resends: fates.ledger.values().map(|overdue| overdue.resends).sum(),
        duplicates_suppressed: fates.duplicates_suppressed,
        ..Audit::default()
    };
    for &order in &fates.orders {
        let overdue = fates.ledger.get(&order.message_id);
        let is_shipped = fates.shipments.contains_key(&order.order_id);
        let is_parked = overdue.is_some_and(Overdue::is_set_aside);
        audit.shipped += u64::from(is_shipped);
        audit.parked += u64::from(is_parked);
        if !is_shipped && !is_parked {
            audit.lost.push(Lost { order, ledger: overdue.cloned() });
        }
    }
    audit.unordered = count(fates.shipments.len()).saturating_sub(audit.shipped);
    audit
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(number: u128) -> Order {
        Order { order_id: Uuid::from_u128(number), message_id: Uuid::from_u128(1_000 + number) }
    }

    fn overdue(state: &str, resends: u64) -> Overdue {
        Overdue { state: state.to_owned(), reason: "because".to_owned(), resends }
    }

    /// Orders 1 to 3; 1 and 2 shipped once.
    fn fates() -> Fates {
        Fates {
            orders: vec![order(1), order(2), order(3)],
            shipments: HashMap::from([(order(1).order_id, 1), (order(2).order_id, 1)]),
            ..Fates::default()
        }
    }

    #[test]
    fn what_is_neither_shipped_nor_parked_is_lost() {
        let audit = audit(&fates());
        assert_eq!((audit.placed, audit.shipped, audit.parked), (3, 2, 0));
        assert_eq!(audit.lost, [Lost { order: order(3), ledger: None }]);
    }

    #[test]
    fn what_stands_in_the_parked_list_or_was_withdrawn_is_not_lost() {
        for state in ["parked", "withdrawn"] {
            let mut fates = fates();
            fates.ledger.insert(order(3).message_id, overdue(state, 3));
            let audit = audit(&fates);
            assert_eq!((audit.parked, audit.lost.len()), (1, 0), "{state}");
        }
    }

    #[test]
    fn no_other_word_of_the_ledger_makes_up_for_a_missing_shipment() {
        for state in ["waiting", "asking", "confirmed", "never_committed", "conflict"] {
            let mut fates = fates();
            fates.ledger.insert(order(3).message_id, overdue(state, 1));
            let ledger = Some(overdue(state, 1));
            assert_eq!(audit(&fates).lost, [Lost { order: order(3), ledger }], "{state}");
        }
    }

    #[test]
    fn every_shipment_beyond_an_orders_first_is_a_doubled_effect() {
        let mut fates = fates();
        fates.shipments =
            HashMap::from([(order(1).order_id, 3), (order(2).order_id, 1), (order(3).order_id, 2)]);
        let audit = audit(&fates);
        assert_eq!((audit.shipped, audit.doubled, audit.lost.len()), (3, 3, 0));
    }

    #[test]
    fn a_shipment_without_a_committed_order_is_seen() {
        let mut fates = fates();
        fates.shipments.insert(order(9).order_id, 1);
        let audit = audit(&fates);
        assert_eq!((audit.unordered, audit.shipped, audit.lost.len()), (1, 2, 1));
    }

    #[test]
    fn resends_are_summed_over_the_whole_ledger() {
        let mut fates = fates();
        fates.ledger.insert(order(1).message_id, overdue("confirmed", 2));
        // Rolled back, so there is no such order.
        fates.ledger.insert(order(7).message_id, overdue("never_committed", 1));
        assert_eq!(audit(&fates).resends, 3);
    }
}

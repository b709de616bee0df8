use super::*;

fn order(number: u128) -> Order {
    Order { order_id: Uuid::from_u128(number), message_id: Uuid::from_u128(1_000 + number) }
}

fn overdue(number: u128, state: &str, reason: &str, resends: i32) -> Overdue {
    let message_id = order(number).message_id;
    Overdue { message_id, state: state.to_owned(), reason: reason.to_owned(), resends }
}

/// Orders 1 to 3; 1 and 2 shipped once.
fn books() -> Books {
    Books {
        orders: vec![order(1), order(2), order(3)],
        shipments: [(order(1).order_id, 1), (order(2).order_id, 1)].into(),
        ..Books::default()
    }
}

fn with(rows: impl IntoIterator<Item = Overdue>) -> Books {
    let overdue = rows.into_iter().map(|row| (row.message_id, row)).collect();
    Books { overdue, ..books() }
}

#[test]
fn an_order_neither_shipped_nor_parked_is_lost() {
    let audit = books().audit();
    assert_eq!((audit.placed, audit.shipped, audit.parked), (3, 2, 0));
    assert_eq!(audit.lost, [Lost { order: order(3), overdue: None }]);
}

#[test]
fn an_order_parked_or_withdrawn_with_a_reason_is_not_lost() {
    for (state, expected) in [("parked", (1, 0)), ("withdrawn", (0, 1))] {
        let audit = with([overdue(3, state, "because", 3)]).audit();
        assert_eq!((audit.parked, audit.withdrawn), expected, "{state}");
        assert_eq!(audit.failures(), [""; 0], "{state}");
    }
}

#[test]
fn an_order_parked_without_a_reason_is_lost() {
    for state in ["parked", "withdrawn"] {
        let audit = with([overdue(3, state, "", 3)]).audit();
        assert_eq!((audit.parked, audit.withdrawn, audit.lost.len()), (0, 0, 1), "{state}");
    }
}

#[test]
fn no_other_word_of_the_ledger_makes_up_for_a_missing_shipment() {
    for state in ["waiting", "asking", "confirmed", "never_committed", "conflict", "closed"] {
        let row = overdue(3, state, "because", 1);
        let audit = with([row.clone()]).audit();
        assert_eq!(audit.lost, [Lost { order: order(3), overdue: Some(row) }], "{state}");
    }
}

#[test]
fn every_shipment_beyond_an_orders_first_is_a_doubled_effect() {
    let mut books = books();
    books.shipments =
        [(order(1).order_id, 3), (order(2).order_id, 1), (order(3).order_id, 2)].into();
    let audit = books.audit();
    assert_eq!((audit.shipped, audit.doubled_effects(), audit.lost.len()), (3, 3, 0));
    assert_eq!(audit.doubled, [(order(1).order_id, 3), (order(3).order_id, 2)]);
}

#[test]
fn a_shipment_without_a_committed_order_is_seen() {
    let mut books = books();
    books.shipments.insert(order(9).order_id, 1);
    let audit = books.audit();
    assert_eq!((audit.unordered.len(), audit.shipped, audit.lost.len()), (1, 2, 1));
}

#[test]
fn resends_are_summed_over_the_whole_ledger() {
    // Order 7 rolled back, so there is no such order.
    let audit =
        with([overdue(1, "confirmed", "", 2), overdue(7, "never_committed", "", 1)]).audit();
    assert_eq!(audit.resends, 3);
}

#[test]
fn the_books_show_every_failure_and_nothing_else() {
    let good = Books {
        orders: vec![order(1), order(2), order(3), order(4)],
        shipments: [(order(1).order_id, 1), (order(2).order_id, 1)].into(),
        overdue: [overdue(3, "parked", "late", 3), overdue(4, "parked", "gave up", 3)]
            .map(|row| (row.message_id, row))
            .into(),
        duplicates_suppressed: 7,
    };
    assert_eq!(good.audit().failures(), [""; 0]);

    let bad = Books {
        shipments: [(order(1).order_id, 2), (order(2).order_id, 1), (order(5).order_id, 1)].into(),
        overdue: [overdue(4, "parked", "", 3)].map(|row| (row.message_id, row)).into(),
        ..good
    };
    let failures = bad.audit().failures();
    let expected =
        ["the ledger does not know it", "without a reason", "shipped 2 times", "never committed"];
    assert_eq!(failures.len(), expected.len(), "{failures:?}");
    for (failure, expected) in failures.iter().zip(expected) {
        assert!(failure.contains(expected), "{failures:?}");
    }
}

//! One bad destination harms nobody else.

use countersign_amqp::{
    Connection, LinkState, Outgoing, Pending, PublishOutcome, Publisher, PublisherSettings,
};
use countersign_testbed::vhost;
use tokio::sync::watch;

use crate::support::{connect, drain, message, outcome, topology};

fn to(exchange: &str, id: &str) -> Outgoing {
    Outgoing { exchange: exchange.to_owned(), ..message("open", id) }
}

fn publish(publisher: &Publisher, exchange: &str, ids: std::ops::Range<usize>) -> Vec<Pending> {
    ids.map(|id| publisher.publish(to(exchange, &id.to_string())).unwrap()).collect()
}

async fn assert_all_routed(pending: Vec<Pending>) {
    for pending in pending {
        assert_eq!(outcome(pending).await, PublishOutcome::Routed);
    }
}

async fn assert_unroutable(pending: Pending, because: &str) {
    match outcome(pending).await {
        PublishOutcome::Unroutable { why } => assert!(why.contains(because), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// A connection's state that must not change from now on.
fn stays_up(connection: &Connection) -> watch::Receiver<LinkState> {
    let mut state = connection.state();
    assert_eq!(*state.borrow_and_update(), LinkState::Up);
    state
}

#[tokio::test]
async fn a_missing_exchange_costs_one_message_and_nothing_else() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "missing", topology(&[("open", &[])])).await;
    let state = stays_up(&connection);
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    for round in 0..20 {
        let missing = publisher.publish(to("missing", "a")).unwrap();
        assert_unroutable(missing, "no exchange 'missing'").await;
        assert_all_routed(publish(&publisher, "x", round * 10..round * 10 + 10)).await;
    }
    assert!(!state.has_changed().unwrap(), "one connection served all");
    publisher.close(crate::support::LONG).await;
    connection.close().await;
    assert_eq!(drain(&vhost, "open").await.len(), 200);
}

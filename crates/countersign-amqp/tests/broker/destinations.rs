//! One bad destination harms nobody else.

use std::time::Instant;

use bytes::Bytes;
use countersign_amqp::{
    Connection, LinkState, NotTaken, Outgoing, Pending, PublishOutcome, Publisher,
    PublisherSettings,
};
use countersign_management::Method;
use countersign_protocol::Topology;
use countersign_protocol::topology::ExchangeKind;
use countersign_testbed::{Broker, BrokerSettings, Vhost, eventually, vhost};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::{LONG, connect, drain, message, outcome, soon, topology};

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

/// Exchanges `x` and `z`, and both lead to queue `open`.
fn two_exchanges() -> Topology {
    topology(&[("open", &[])])
        .with_exchange("z", ExchangeKind::Direct)
        .with_binding("z", "open", "open")
}

async fn manage(vhost: &Vhost, method: Method, path: &[&str], body: Option<Value>) {
    vhost.management().call(method, path, body).await.unwrap();
}

async fn delete_exchange(vhost: &Vhost, exchange: &str) {
    manage(vhost, Method::DELETE, &["exchanges", vhost.name(), exchange], None).await;
}

#[tokio::test]
async fn a_missing_exchange_costs_one_message_and_nothing_else() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "missing", topology(&[("open", &[])])).await;
    let state = stays_up(&connection);
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    for round in 0..20 {
        // Each has a name of its own: the broker is asked each time.
        let exchange = format!("missing {round}");
        let missing = publisher.publish(to(&exchange, "a")).unwrap();
        let others = publish(&publisher, "x", round * 10..round * 10 + 10);
        assert_unroutable(missing, &format!("no exchange '{exchange}'")).await;
        assert_all_routed(others).await;
        assert!(publisher.refusal(&exchange, "any").is_some_and(|why| why.contains("(404)")));
        assert_eq!(publisher.refusal("x", "open"), None);
    }
    assert!(!state.has_changed().unwrap(), "one connection served all");
    publisher.close(LONG).await;
    connection.close().await;
    assert_eq!(drain(&vhost, "open").await.len(), 200);
}

#[tokio::test]
async fn an_exchange_without_write_rights_costs_one_message_and_nothing_else() {
    let vhost = vhost().await;
    let user = format!("writer of {}", vhost.name());
    let account = json!({ "password": "secret", "tags": "" });
    manage(&vhost, Method::PUT, &["users", &user], Some(account)).await;
    let rights = json!({ "configure": ".*", "write": "^(x|open)$", "read": ".*" });
    manage(&vhost, Method::PUT, &["permissions", vhost.name(), &user], Some(rights)).await;
    let owner = connect(vhost.url(), "owner", two_exchanges()).await;
    let (_, host) = vhost.url().split_once('@').unwrap();
    let url = format!("amqp://{}:secret@{host}", user.replace(' ', "%20"));
    let connection = connect(&url, "writer", Topology::default()).await;
    let state = stays_up(&connection);
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    for round in 0..5 {
        let forbidden = publisher.publish(to("z", "a")).unwrap();
        let others = publish(&publisher, "x", round * 10..round * 10 + 10);
        assert_unroutable(forbidden, "refused for user").await;
        assert_all_routed(others).await;
    }
    assert!(!state.has_changed().unwrap(), "one connection served all");
    publisher.close(LONG).await;
    connection.close().await;
    owner.close().await;
    manage(&vhost, Method::DELETE, &["users", &user], None).await;
    assert_eq!(drain(&vhost, "open").await.len(), 50);
}

#[tokio::test]
async fn a_body_over_the_brokers_limit_costs_one_message_and_nothing_else() {
    let config = "max_message_size = 10000".to_owned();
    let broker = Broker::start(BrokerSettings { config, ..BrokerSettings::default() });
    let broker = broker.await.unwrap();
    let vhost = Vhost::create(broker.address()).await.unwrap();
    let connection = connect(vhost.url(), "too large", topology(&[("open", &[])])).await;
    let state = stays_up(&connection);
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let large = || {
        let body = Bytes::from(vec![b'x'; 10_001]);
        publisher.publish(Outgoing { body, ..message("open", "a") }).unwrap()
    };
    assert_all_routed(publish(&publisher, "x", 0..1)).await;
    assert_unroutable(large(), "(406)").await;
    for round in 0..20 {
        let large = large();
        let others = publish(&publisher, "x", round * 10..round * 10 + 10);
        assert_unroutable(large, "(406)").await;
        assert_all_routed(others).await;
    }
    assert!(!state.has_changed().unwrap(), "one connection served all");
    publisher.close(LONG).await;
    connection.close().await;
    assert_eq!(drain(&vhost, "open").await.len(), 200);
}

#[tokio::test]
async fn a_thousand_messages_into_one_wall_are_published_a_few_times() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "wall", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let began = Instant::now();
    let into_the_wall = publish(&publisher, "missing", 0..1_000);
    for pending in into_the_wall {
        assert_unroutable(pending, "no exchange 'missing'").await;
    }
    // The broker is asked again after 1 s, 2 s, 4 s at the earliest, and each time costs a channel.
    let most = 3 + began.elapsed().as_secs();
    let closed =
        eventually("the figures show the channel that was opened anew", LONG, async || {
            let newest = newest_channel(&vhost).await;
            if newest > FIRST_CHANNELS { Ok(newest - FIRST_CHANNELS) } else { Err(newest) }
        })
        .await;
    assert!(closed <= most, "{closed} channels were closed");
    connection.close().await;
}

/// The publisher's own channels and the one that declared the topology.
const FIRST_CHANNELS: u64 = 6;

/// The number of the channel that was opened last: the client counts them.
async fn newest_channel(vhost: &Vhost) -> u64 {
    let channels = vhost.management().get(&["vhosts", vhost.name(), "channels"]).await.unwrap();
    let channels = channels.unwrap_or_default();
    let numbers = channels.as_array().into_iter().flatten().map(|c| c["number"].as_u64().unwrap());
    numbers.max().unwrap_or_default()
}

#[tokio::test]
async fn of_200_in_flight_when_their_exchange_is_deleted_no_other_is_refused() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "deleted", two_exchanges()).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    assert_all_routed(publish(&publisher, "x", 0..1)).await;
    assert_all_routed(publish(&publisher, "z", 0..1)).await;
    delete_exchange(&vhost, "z").await;
    let (mut unknown, mut refused) = (0, 0);
    for id in 0..200 {
        let exchange = if id % 4 == 0 { "z" } else { "x" };
        let mut pending = publish(&publisher, exchange, id..id + 1).remove(0);
        // Others are on their way at the same time.
        let others = publish(&publisher, "x", 1_000 + id * 10..1_010 + id * 10);
        loop {
            match outcome(pending).await {
                PublishOutcome::Routed if exchange == "x" => break,
                PublishOutcome::Unroutable { why } if exchange == "z" => {
                    assert!(why.contains("no exchange 'z'"), "{why}");
                    refused += 1;
                    break;
                }
                PublishOutcome::Unknown { .. } => unknown += 1,
                other => panic!("{exchange}: {other:?}"),
            }
            pending = again(&publisher, &connection, exchange, id).await;
        }
        for other in others {
            match outcome(other).await {
                PublishOutcome::Routed => {}
                PublishOutcome::Unknown { .. } => unknown += 1,
                refused => panic!("{refused:?}"),
            }
        }
    }
    assert_eq!(refused, 50);
    assert!(unknown < 200, "{unknown}");
    connection.close().await;
}

async fn again(
    publisher: &Publisher,
    connection: &Connection,
    exchange: &str,
    id: usize,
) -> Pending {
    loop {
        match publisher.publish(to(exchange, &id.to_string())) {
            Ok(pending) => return pending,
            Err(NotTaken::Away { .. }) => soon("up again", connection.ready()).await,
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_exchange_deleted_under_full_load_costs_no_message_of_another() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "under load", two_exchanges()).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    assert_all_routed(publish(&publisher, "x", 0..1)).await;
    assert_all_routed(publish(&publisher, "z", 0..1)).await;
    let exchange_of = |id: usize| if id.is_multiple_of(3) { "z" } else { "x" };
    let load = async {
        let mut left: Vec<usize> = (0..20_000).collect();
        let mut missing = 0;
        while !left.is_empty() {
            let mut pending = Vec::new();
            for id in left.drain(..left.len().min(4_000)) {
                pending.push((id, again(&publisher, &connection, exchange_of(id), id).await));
            }
            for (id, pending) in pending {
                match outcome(pending).await {
                    PublishOutcome::Routed => {}
                    PublishOutcome::Unroutable { .. } if exchange_of(id) == "z" => missing += 1,
                    PublishOutcome::Unknown { .. } => left.push(id),
                    other => panic!("{}: {other:?}", exchange_of(id)),
                }
            }
        }
        missing
    };
    let (missing, ()) = tokio::join!(load, delete_exchange(&vhost, "z"));
    assert!(missing > 0, "the exchange was deleted too late for this test");
    connection.close().await;
    let found = drain(&vhost, "open").await;
    let lost = (0..20_000).filter(|id| id % 3 != 0 && !found.contains_key(&id.to_string()));
    assert_eq!(lost.count(), 0);
}

#[tokio::test]
async fn after_2_100_closed_channels_messages_still_go_through() {
    let vhost = vhost().await;
    let connection = connect(vhost.url(), "2,100", topology(&[("open", &[])])).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let mut unknown = 0;
    for number in 0..2_100 {
        let exchange = format!("missing {number}");
        let pending = again(&publisher, &connection, &exchange, number).await;
        match outcome(pending).await {
            PublishOutcome::Unroutable { why } => assert!(why.contains("(404)"), "{why}"),
            PublishOutcome::Unknown { .. } => unknown += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(unknown <= 5, "the connection was built anew {unknown} times");
    let pending = again(&publisher, &connection, "x", 0).await;
    assert_eq!(outcome(pending).await, PublishOutcome::Routed);
    connection.close().await;
}

//! Declaring, also against a broker that has the names already with other settings.

use countersign_amqp::{Connection, LinkState};
use countersign_protocol::Tier;
use countersign_protocol::topology::{self, Argument, Topology};
use countersign_testbed::{eventually, vhost};
use serde_json::json;

use crate::support::{LONG, connect, soon, state, topology};

#[tokio::test]
async fn the_whole_topology_of_the_contract_is_declared_and_can_be_declared_again() {
    let vhost = vhost().await;
    let tiers = ["5s".parse::<Tier>().unwrap(), "5m".parse().unwrap()];
    let all = Topology::callback(&tiers, 2)
        .and(Topology::consumed("logistics.orders", &[std::time::Duration::from_secs(1)]));
    for name in ["first", "second"] {
        connect(vhost.url(), name, all.clone()).await.close().await;
    }
    let mut queues = vhost.queues().await;
    queues.sort();
    assert_eq!(
        queues,
        [
            "countersign.check.due",
            "countersign.check.wait.5m",
            "countersign.check.wait.5s",
            "countersign.confirm.0",
            "countersign.confirm.1",
            "countersign.quarantine",
            "countersign.rolled_back",
            "logistics.orders",
            "logistics.orders.dead",
            "logistics.orders.retry.1s",
        ]
    );
    // An alternate exchange hides unroutable messages: exchange `confirm` has one, `check` has
    // none.
    assert!(vhost.publish(topology::CONFIRM, "no such shard", json!({}), b"{}").await);
    assert!(!vhost.publish(topology::CHECK, "no such tier", json!({}), b"{}").await);
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_with_what_to_do_and_tried_again() {
    let vhost = vhost().await;
    // Its limit alone would be taken as it is.
    vhost.declare_queue("open", json!({ "x-max-length": 5, "x-message-ttl": 5_000 })).await;
    let wanted = topology(&[(
        "open",
        &[("x-max-length", Argument::Integer(6)), ("x-message-ttl", Argument::Integer(6_000))],
    )]);
    let connection = Connection::start(vhost.url().parse().unwrap(), "other", wanted);
    let refused = state(
        &connection,
        "refused",
        |state| matches!(state, LinkState::Connecting { why } if why.contains("queue open")),
    )
    .await;
    let LinkState::Connecting { why } = refused else { unreachable!("it was matched") };
    assert!(why.contains("x-message-ttl"), "the broker's own words: {why}");
    assert!(why.contains("empty and delete it"), "what to do: {why}");

    vhost.delete_queue("open").await;
    soon("the queue to be declared", connection.ready()).await;
    eventually("the queue is there", LONG, async || vhost.depth("open").await).await;
    connection.close().await;
}

#[tokio::test]
async fn queues_of_another_release_with_other_limits_are_taken_as_they_are() {
    let vhost = vhost().await;
    vhost.declare_queue("larger", json!({ "x-max-length": 5_000_000_000_i64 })).await;
    vhost.declare_queue("without", json!({})).await;
    vhost.declare_queue("with", json!({ "x-max-length-bytes": 7, "x-delivery-limit": 3 })).await;
    let wanted = topology(&[
        (
            "larger",
            &[("x-max-length", Argument::Integer(6)), ("x-delivery-limit", Argument::Integer(9))],
        ),
        ("without", &[("x-max-length", Argument::Integer(6))]),
        ("with", &[]),
        ("new", &[]),
    ]);
    let connection = connect(vhost.url(), "other", wanted.clone()).await;
    // As it was found, for the second party, too.
    connect(vhost.url(), "again", wanted).await.close().await;
    assert!(vhost.queues().await.contains(&"new".to_owned()));
    connection.close().await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_waited_for_and_close_does_not_wait() {
    let connection =
        Connection::start("amqp://127.0.0.1:1".parse().unwrap(), "nobody", Topology::default());
    let away = state(
        &connection,
        "refused",
        |state| matches!(state, LinkState::Connecting { why } if why.contains("refused")),
    )
    .await;
    assert!(away.away().is_some());
    soon("the connection to close", connection.close()).await;
    soon("ready to return after close", connection.ready()).await;
    assert_eq!(*connection.state().borrow(), LinkState::Closed);
}

#[tokio::test]
async fn a_wrong_password_is_said_and_never_shown() {
    let vhost = vhost().await;
    let url = vhost.url().replacen("testbed:", "testbed:hunter2", 1);
    let connection = Connection::start(url.parse().unwrap(), "wrong", Topology::default());
    let refused = state(
        &connection,
        "refused",
        |state| matches!(state, LinkState::Connecting { why } if why.contains("ACCESS")),
    )
    .await;
    assert!(!format!("{refused:?} {connection:?}").contains("hunter2"));
    connection.close().await;
}

//! Short ways for the tests to say what they do.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use countersign_amqp::{
    Connection, Consumer, Delivery, LinkState, Outgoing, Pending, Properties, PublishOutcome,
    Subscription,
};
use countersign_protocol::topology::{Argument, Binding, ExchangeKind, Queue, Topology};
use countersign_testbed::Vhost;

/// Longer than any step takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits for a future, but not for ever.
pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LONG, wait).await;
    done.unwrap_or_else(|_| panic!("waited {LONG:?} for: {what}"))
}

pub(crate) async fn outcome(pending: Pending) -> PublishOutcome {
    soon("an outcome", pending).await
}

pub(crate) async fn connect(url: &str, name: &str, topology: Topology) -> Connection {
    let connection = Connection::start(url.parse().unwrap(), name, topology);
    soon("the connection to be up", connection.ready()).await;
    connection
}

/// Waits until the connection is in a state that `is` accepts.
pub(crate) async fn state(
    connection: &Connection,
    what: &str,
    is: impl Fn(&LinkState) -> bool,
) -> LinkState {
    let mut states = connection.state();
    let reached = soon(&format!("the connection to be {what}"), states.wait_for(is)).await;
    reached.unwrap().clone()
}

/// Exchange `x`, of kind direct, and each queue bound with its own name as key.
pub(crate) fn topology(queues: &[(&str, &[(&'static str, Argument)])]) -> Topology {
    let mut topology = Topology::default().with_exchange("x", ExchangeKind::Direct);
    for (name, arguments) in queues {
        let (name, arguments) = ((*name).to_owned(), arguments.to_vec());
        let binding = Binding { exchange: "x".into(), key: name.clone(), queue: name.clone() };
        topology.queues.push(Queue { name, arguments });
        topology.bindings.push(binding);
    }
    topology
}

/// A message to exchange `x`, with its id as its body.
pub(crate) fn message(key: &str, id: &str) -> Outgoing {
    Outgoing {
        exchange: "x".to_owned(),
        key: key.to_owned(),
        properties: Properties { message_id: Some(id.to_owned()), ..Properties::default() },
        body: Bytes::copy_from_slice(id.as_bytes()),
    }
}

/// How often each id is in a queue. Empties the queue.
pub(crate) async fn drain(vhost: &Vhost, queue: &str) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    loop {
        let taken = vhost.take(queue, 2_000).await;
        if taken.is_empty() {
            return ids;
        }
        for message in taken {
            *ids.entry(message.message_id().unwrap().to_owned()).or_default() += 1;
        }
    }
}

pub(crate) fn consume(connection: &Connection, queue: &str, prefetch: u16) -> Consumer {
    let subscription = Subscription { queue: queue.to_owned(), prefetch, priority: None };
    Consumer::start(connection, subscription)
}

pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    soon("a delivery", consumer.next()).await.expect("the connection is not closed")
}

/// The ids of the next deliveries.
pub(crate) async fn next_ids(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.push(id(&next(consumer).await));
    }
    ids
}

pub(crate) fn id(delivery: &Delivery) -> String {
    delivery.properties.message_id.clone().expect("every message of these tests has an id")
}

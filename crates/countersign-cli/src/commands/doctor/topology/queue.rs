//! Queues: there, declared as they have to be, with their replicas up and the right readers.

use countersign_protocol::topology::{Argument, Queue};
use serde_json::Value;

use super::super::finding::{Finding, RESTART_CALLBACK, error, warning};
use super::actual::ActualQueue;
use super::role::Role;
use crate::terminal::table::count;

/// The queue is not there.
pub(crate) fn missing(name: &str, role: Role<'_>) -> Finding {
    let subject = format!("queue {name}");
    match role {
        Role::Consumed(queue) | Role::Retry(queue) | Role::Dead(queue) => error(
            subject,
            "it is missing",
            format!(
                "restart the consumer of {queue}: when it connects, it declares the queues that are missing"
            ),
        ),
        _ => error(subject, "it is missing", RESTART_CALLBACK),
    }
}

/// The arguments with which the broker treats messages in another way. Others, such as
/// `x-queue-leader-locator`, an operator may set as needed.
const DECISIVE: [&str; 8] = [
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-single-active-consumer",
];

/// The queue's type and arguments, against those that it has to be declared with.
pub(crate) fn declaration(wanted: &Queue, actual: &ActualQueue) -> Option<Finding> {
    let subject = format!("queue {}", wanted.name);
    if actual.kind != "quorum" || !actual.durable {
        let found = format!(
            "it is a {} queue, not a durable quorum queue: it does not survive the loss of a node",
            actual.kind
        );
        return Some(error(subject, found, declare_anew(&wanted.name)));
    }
    let mut differences = Vec::new();
    for (name, value) in &wanted.arguments {
        let value = json(value);
        match actual.arguments.get(*name) {
            Some(actual) if *actual == value => {}
            Some(actual) => differences.push(format!("{name} is {actual}, not {value}")),
            None => differences.push(format!("{name} is missing, {value} is needed")),
        }
    }
    for name in DECISIVE {
        if let Some(value) = actual.arguments.get(name)
            && !wanted.arguments.iter().any(|(wanted, _)| *wanted == name)
        {
            differences.push(format!("{name} is {value}, and should not be there"));
        }
    }
    (!differences.is_empty())
        .then(|| error(subject, differences.join("; "), declare_anew(&wanted.name)))
}

/// RabbitMQ cannot change the arguments of a queue.
fn declare_anew(queue: &str) -> String {
    format!(
        "stop the publishers to {queue}, let its consumers empty it, stop them, delete it, and start them all again: a service declares its queues when it connects"
    )
}

/// The argument as the management API shows it.
pub(crate) fn json(argument: &Argument) -> Value {
    match argument {
        Argument::Text(text) => text.as_str().into(),
        Argument::Integer(number) => (*number).into(),
        Argument::Boolean(boolean) => (*boolean).into(),
    }
}

/// The queue's replicas: a majority has to be up.
pub(crate) fn replicas(name: &str, actual: &ActualQueue) -> Option<Finding> {
    let subject = format!("queue {name}");
    let up = format!("{} of its {} replicas are up", actual.online, actual.members);
    let fix = "start the nodes that are down; rabbitmq-queues check_if_node_is_quorum_critical says which are needed";
    let has_leader = actual.leader.as_ref().is_some_and(|leader| !leader.is_empty());
    if !has_leader || actual.online <= actual.members / 2 {
        return Some(error(subject, format!("it cannot be used: {up}"), fix));
    }
    (actual.online < actual.members).then(|| warning(subject, up, fix))
}

/// The queue's consumers: none where messages wait for their TTL, some where messages are processed.
pub(crate) fn consumers(name: &str, role: Role<'_>, actual: &ActualQueue) -> Option<Finding> {
    let subject = format!("queue {name}");
    match role {
        Role::CheckWait | Role::Retry(_) => (actual.consumers > 0).then(|| {
            error(
                subject,
                format!(
                    "consumers that read it: {}; messages that wait in it never come due",
                    count(actual.consumers)
                ),
                "find these consumers (management, tab Queues) and stop them",
            )
        }),
        _ if actual.consumers > 0 => None,
        Role::Intake => Some(error(
            subject,
            "no consumer reads it: nothing is recorded and nothing healed",
            "start the callback service",
        )),
        Role::Notices => Some(warning(
            subject,
            "no consumer reads it: each rolled-back transaction costs a call of its upstream",
            "start the callback service",
        )),
        Role::Consumed(_) => Some(warning(subject, "no consumer reads it", "start its consumer")),
        Role::Dead(_) | Role::Quarantine | Role::Other => None,
    }
}

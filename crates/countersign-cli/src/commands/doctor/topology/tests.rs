//! Each difference between the broker and the topology, one at a time.

use countersign_protocol::{Topology, topology};
use serde_json::json;

use super::super::finding::Severity;
use super::actual::{ActualExchange, ActualQueue, ActualTopology};
use super::exchange::kind;
use super::{check, queue};

const QUEUE: &str = "logistics.orders";

fn expected() -> Topology {
    let second = std::time::Duration::from_secs(1);
    Topology::callback(&["5s".parse().unwrap()], 2).and(Topology::consumed(QUEUE, &[second]))
}

/// A broker that has all of it.
fn actual() -> ActualTopology {
    let expected = expected();
    let exchanges = expected.exchanges.iter().map(|wanted| {
        let seen = ActualExchange {
            kind: kind(wanted.kind).to_owned(),
            durable: true,
            alternate: wanted.alternate.clone(),
        };
        (wanted.name.clone(), seen)
    });
    let queues = expected.queues.iter().map(|wanted| {
        let arguments =
            wanted.arguments.iter().map(|(name, value)| ((*name).to_owned(), queue::json(value)));
        let consumed = [QUEUE, topology::CHECK_DUE, topology::ROLLED_BACK].contains(&&*wanted.name)
            || wanted.name.starts_with("countersign.confirm.");
        let seen = ActualQueue {
            kind: "quorum".to_owned(),
            durable: true,
            arguments: arguments.collect(),
            consumers: consumed.into(),
            leader: Some("a".to_owned()),
            members: 3,
            online: 3,
            ..ActualQueue::default()
        };
        (wanted.name.clone(), seen)
    });
    let bindings =
        expected.bindings.iter().map(|b| (b.exchange.clone(), b.key.clone(), b.queue.clone()));
    ActualTopology {
        exchanges: exchanges.collect(),
        queues: queues.collect(),
        bindings: bindings.collect(),
    }
}

fn found(damage: impl FnOnce(&mut ActualTopology)) -> Vec<(Severity, String, String)> {
    let mut actual = actual();
    damage(&mut actual);
    check(&expected(), &[QUEUE.to_owned()], &actual)
        .into_iter()
        .map(|finding| (finding.severity, finding.subject, finding.finding))
        .collect()
}

fn the_queue<'a>(actual: &'a mut ActualTopology, name: &str) -> &'a mut ActualQueue {
    actual.queues.get_mut(name).unwrap()
}

#[test]
fn what_is_as_declared_has_no_findings() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn each_thing_that_is_not_is_found_once_and_named() {
    use Severity::{Error, Warning};
    type Damage = fn(&mut ActualTopology);
    let cases: [(Damage, Severity, &str, &str); 21] = [
        (
            |b| drop(b.exchanges.remove("countersign.check")),
            Error,
            "exchange countersign.check",
            "missing",
        ),
        (
            |b| b.exchanges.get_mut("countersign.check").unwrap().kind = "topic".to_owned(),
            Error,
            "exchange countersign.check",
            "topic",
        ),
        (
            |b| {
                b.exchanges.get_mut("countersign.check").unwrap().alternate =
                    Some("all".to_owned());
            },
            Error,
            "exchange countersign.check",
            "acked instead of returned",
        ),
        (
            |b| b.exchanges.get_mut("countersign.confirm").unwrap().alternate = None,
            Error,
            "exchange countersign.confirm",
            "none",
        ),
        (
            |b| drop(b.queues.remove("countersign.check.due")),
            Error,
            "queue countersign.check.due",
            "missing",
        ),
        (
            |b| drop(b.queues.remove("logistics.orders.retry.1s")),
            Error,
            "queue logistics.orders.retry.1s",
            "missing",
        ),
        (
            |b| the_queue(b, "countersign.check.wait.5s").kind = "classic".to_owned(),
            Error,
            "queue countersign.check.wait.5s",
            "classic",
        ),
        (
            |b| {
                the_queue(b, "countersign.check.wait.5s").arguments["x-message-ttl"] = json!(1);
            },
            Error,
            "queue countersign.check.wait.5s",
            "x-message-ttl is 1, not 5000",
        ),
        (
            |b| {
                the_queue(b, "countersign.check.wait.5s")
                    .arguments
                    .remove("x-dead-letter-strategy");
            },
            Error,
            "queue countersign.check.wait.5s",
            "x-dead-letter-strategy is missing",
        ),
        (
            |b| {
                the_queue(b, QUEUE).arguments.insert("x-expires".to_owned(), json!(5));
            },
            Error,
            "queue logistics.orders",
            "should not be there",
        ),
        (
            |b| the_queue(b, "countersign.confirm.1").online = 1,
            Error,
            "queue countersign.confirm.1",
            "cannot be used",
        ),
        (
            |b| the_queue(b, "countersign.confirm.1").leader = None,
            Error,
            "queue countersign.confirm.1",
            "cannot be used",
        ),
        (
            |b| the_queue(b, "countersign.confirm.1").online = 2,
            Warning,
            "queue countersign.confirm.1",
            "2 of its 3",
        ),
        (
            |b| the_queue(b, "countersign.confirm.1").consumers = 0,
            Error,
            "queue countersign.confirm.1",
            "no consumer reads",
        ),
        (
            |b| the_queue(b, QUEUE).consumers = 0,
            Warning,
            "queue logistics.orders",
            "no consumer reads",
        ),
        (
            |b| the_queue(b, "countersign.rolled_back").consumers = 0,
            Warning,
            "queue countersign.rolled_back",
            "no consumer reads",
        ),
        (
            |b| b.bindings.retain(|(exchange, ..)| exchange != "countersign.rolled_back"),
            Error,
            "binding of countersign.rolled_back to countersign.rolled_back",
            "notices are lost",
        ),
        (
            |b| the_queue(b, "countersign.check.wait.5s").consumers = 1,
            Error,
            "queue countersign.check.wait.5s",
            "never come due",
        ),
        (
            |b| the_queue(b, "countersign.quarantine").ready = 1,
            Warning,
            "queue countersign.quarantine",
            "stored: 1",
        ),
        (
            |b| the_queue(b, "logistics.orders.dead").unacked = 2,
            Warning,
            "queue logistics.orders.dead",
            "rejected: 2",
        ),
        (
            |b| b.bindings.retain(|(exchange, ..)| exchange != "countersign.check.due"),
            Error,
            "binding of countersign.check.due to countersign.check.due",
            "nowhere to go",
        ),
    ];
    for (damage, severity, subject, part) in cases {
        let found = found(damage);
        let [(seen, of, what)] = &found[..] else { panic!("{subject}: {found:?}") };
        assert_eq!((*seen, of.as_str()), (severity, subject));
        assert!(what.contains(part), "{what}: {part}");
    }
}

#[test]
fn a_limit_that_is_nearly_reached_is_an_error() {
    for (name, held) in [("countersign.quarantine", 90_000), ("countersign.check.wait.5s", 900_000)]
    {
        let found = found(|b| the_queue(b, name).ready = held);
        assert_eq!((found.len(), found[0].0), (1, Severity::Error), "{name}");
    }
}

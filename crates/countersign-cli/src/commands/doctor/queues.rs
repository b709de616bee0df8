//! Exchanges, queues and bindings, against what they have to be.

use std::collections::{BTreeMap, BTreeSet};

use countersign_protocol::Topology;
use countersign_protocol::topology::{
    self, Argument, Binding, Exchange, ExchangeKind, MAX_QUARANTINED, MAX_WAITING_CHECKS, Queue,
};
use serde_json::{Map, Value};

use super::finding::{Finding, error, warning};
use super::policy;
use crate::terminal::table::count;

/// What stands in the broker, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) exchanges: BTreeMap<String, SeenExchange>,
    pub(crate) queues: BTreeMap<String, SeenQueue>,
    /// From, with which key, to.
    pub(crate) bindings: BTreeSet<(String, String, String)>,
}

/// An exchange as it stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenExchange {
    pub(crate) kind: String,
    pub(crate) durable: bool,
    /// Where what it cannot route goes, by its argument or a policy.
    pub(crate) alternate: Option<String>,
}

/// A queue as it stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenQueue {
    pub(crate) kind: String,
    pub(crate) durable: bool,
    pub(crate) arguments: Map<String, Value>,
    /// The operator's and the user's policy together, as the broker applies them.
    pub(crate) policy: Map<String, Value>,
    /// The names of the policies.
    pub(crate) policies: Vec<String>,
    pub(crate) consumers: u64,
    pub(crate) leader: Option<String>,
    pub(crate) members: usize,
    pub(crate) online: usize,
    pub(crate) ready: u64,
    pub(crate) unacked: u64,
}

/// A limit that is nearly reached.
const NEARLY: f64 = 0.9;

/// What is not as it should be.
///
/// `consumed` are the queues whose topology was asked for besides the callback service's.
pub(crate) fn check(expected: &Topology, consumed: &[String], standing: &Standing) -> Vec<Finding> {
    let mut findings = Vec::new();
    for wanted in &expected.exchanges {
        findings.extend(exchange(wanted, standing.exchanges.get(&wanted.name)));
    }
    for wanted in &expected.queues {
        let of = consumed.iter().find(|queue| belongs(&wanted.name, queue));
        let Some(seen) = standing.queues.get(&wanted.name) else {
            findings.push(missing_queue(&wanted.name, of));
            continue;
        };
        findings.extend(arguments(wanted, seen));
        findings.extend(policy::check(wanted, seen));
        findings.extend(replicas(&wanted.name, seen));
        findings.extend(readers(&wanted.name, of, seen));
        findings.extend(depth(&wanted.name, seen));
    }
    for wanted in &expected.bindings {
        findings.extend(binding(wanted, standing));
    }
    findings
}

fn belongs(name: &str, queue: &str) -> bool {
    name == queue || name.strip_prefix(queue).is_some_and(|rest| rest.starts_with('.'))
}

fn kind(kind: ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Topic => "topic",
    }
}

const RESTART: &str = "restart the callback service: it declares what is missing when it connects";

fn exchange(wanted: &Exchange, seen: Option<&SeenExchange>) -> Vec<Finding> {
    let subject = format!("exchange {}", wanted.name);
    let Some(seen) = seen else {
        return vec![error(subject, "it is missing", RESTART)];
    };
    let mut findings = Vec::new();
    if seen.kind != kind(wanted.kind) || !seen.durable {
        let is = if seen.durable { "" } else { ", not durable" };
        findings.push(error(
            &subject,
            format!("it is of kind {}{is}, not a durable {}", seen.kind, kind(wanted.kind)),
            "stop our services, delete it and start the callback service",
        ));
    }
    if seen.alternate == wanted.alternate {
        return findings;
    }
    let (found, fix) = match (&seen.alternate, &wanted.alternate) {
        (Some(alternate), None) if wanted.name == topology::CHECK => (
            format!(
                "it has the alternate exchange {alternate}: a check that no queue takes is acked instead of returned, so messages go out unwatched"
            ),
            "take alternate-exchange out of the policy or the exchange's arguments",
        ),
        (seen, wanted) => (
            format!("its alternate exchange is {}, not {}", word(seen), word(wanted)),
            "take alternate-exchange out of the policy, or delete the exchange and restart the callback service",
        ),
    };
    findings.push(error(subject, found, fix));
    findings
}

fn word(alternate: &Option<String>) -> &str {
    alternate.as_deref().unwrap_or("none")
}

fn missing_queue(name: &str, of: Option<&String>) -> Finding {
    let subject = format!("queue {name}");
    match of {
        None => error(subject, "it is missing", RESTART),
        Some(queue) => error(
            subject,
            "it is missing",
            format!(
                "restart the consumer of {queue}: it declares what is missing when it connects"
            ),
        ),
    }
}

/// The arguments that the broker reads and that change what becomes of a message.
const TELLING: [&str; 8] = [
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-single-active-consumer",
];

fn arguments(wanted: &Queue, seen: &SeenQueue) -> Vec<Finding> {
    let subject = format!("queue {}", wanted.name);
    if seen.kind != "quorum" || !seen.durable {
        return vec![error(
            subject,
            format!(
                "it is a {} queue, not a durable quorum queue: it does not survive the loss of a node",
                seen.kind
            ),
            anew(&wanted.name),
        )];
    }
    let mut differences = Vec::new();
    for (name, value) in &wanted.arguments {
        let value = json(value);
        match seen.arguments.get(*name) {
            Some(seen) if *seen == value => {}
            Some(seen) => differences.push(format!("{name} is {seen}, not {value}")),
            None => differences.push(format!("{name} is missing, {value} is needed")),
        }
    }
    for name in TELLING {
        if let Some(value) = seen.arguments.get(name)
            && !wanted.arguments.iter().any(|(wanted, _)| *wanted == name)
        {
            differences.push(format!("{name} is {value}, and should not be there"));
        }
    }
    if differences.is_empty() {
        return Vec::new();
    }
    vec![error(subject, differences.join("; "), anew(&wanted.name))]
}

/// Arguments cannot be changed.
fn anew(queue: &str) -> String {
    format!(
        "stop who consumes {queue} and let it run empty, delete it, and start them again: it is declared anew"
    )
}

fn json(argument: &Argument) -> Value {
    match argument {
        Argument::Text(text) => text.as_str().into(),
        Argument::Integer(number) => (*number).into(),
        Argument::Boolean(boolean) => (*boolean).into(),
    }
}

fn replicas(name: &str, seen: &SeenQueue) -> Option<Finding> {
    let subject = format!("queue {name}");
    let fix = "start the nodes that are down; rabbitmq-queues check_if_node_is_quorum_critical says which are needed";
    if seen.leader.as_deref().unwrap_or_default().is_empty() || seen.online <= seen.members / 2 {
        let found =
            format!("it answers nobody: {} of its {} replicas are up", seen.online, seen.members);
        return Some(error(subject, found, fix));
    }
    (seen.online < seen.members).then(|| {
        warning(subject, format!("{} of its {} replicas are up", seen.online, seen.members), fix)
    })
}

fn readers(name: &str, of: Option<&String>, seen: &SeenQueue) -> Option<Finding> {
    let subject = format!("queue {name}");
    let waits = name.starts_with("countersign.check.wait.")
        || of.is_some_and(|queue| {
            name.strip_prefix(queue.as_str()).is_some_and(|rest| rest.starts_with(".retry."))
        });
    if waits {
        return (seen.consumers > 0).then(|| {
            error(
                subject,
                format!(
                    "consumers that read it: {}; what waits in it never comes due",
                    count(seen.consumers)
                ),
                "find out who they are (management, tab Queues) and stop them",
            )
        });
    }
    let is_ours = name == topology::CHECK_DUE || name.starts_with("countersign.confirm.");
    let is_consumed = of.is_some_and(|queue| queue == name);
    if seen.consumers > 0 || !(is_ours || is_consumed) {
        return None;
    }
    Some(match is_consumed {
        true => warning(subject, "nobody consumes it", "start its consumer"),
        false => error(
            subject,
            "nobody consumes it: nothing is recorded and nothing healed",
            "start the callback service",
        ),
    })
}

fn depth(name: &str, seen: &SeenQueue) -> Option<Finding> {
    let subject = format!("queue {name}");
    let held = seen.ready + seen.unacked;
    if name == topology::QUARANTINE {
        return match held {
            0 => None,
            held if is_nearly(held, MAX_QUARANTINED) => Some(error(
                subject,
                format!(
                    "messages in it: {}; past {} the oldest goes",
                    count(held),
                    count(MAX_QUARANTINED)
                ),
                "countersign quarantine list, then replay or drop",
            )),
            held => Some(warning(
                subject,
                format!("messages in it that could not be read or stored: {}", count(held)),
                "countersign quarantine list",
            )),
        };
    }
    if name.starts_with("countersign.check.wait.") {
        return is_nearly(held, MAX_WAITING_CHECKS).then(|| {
            error(
                subject,
                format!(
                    "checks that wait in it: {}; past {} no message can be armed",
                    count(held),
                    count(MAX_WAITING_CHECKS)
                ),
                "choose a shorter check delay for some upstreams",
            )
        });
    }
    let dead = name.strip_suffix(".dead").filter(|_| held > 0)?;
    Some(warning(
        subject,
        format!("deliveries in it that the consumer of {dead} would not have: {}", count(held)),
        format!(
            "look at countersign-reason in them (management, Get messages); mend the consumer of {dead}, then countersign resend"
        ),
    ))
}

#[expect(clippy::cast_precision_loss, reason = "a part of a limit of 1,000,000 at most")]
fn is_nearly(held: u64, limit: i64) -> bool {
    held as f64 >= limit as f64 * NEARLY
}

fn binding(wanted: &Binding, standing: &Standing) -> Option<Finding> {
    let Binding { exchange, key, queue } = wanted;
    let both = standing.exchanges.contains_key(exchange) && standing.queues.contains_key(queue);
    let bound = standing.bindings.contains(&(exchange.clone(), key.clone(), queue.clone()));
    (both && !bound).then(|| {
        let what = match exchange.as_str() {
            topology::CHECK_DUE => {
                "checks that come due have nowhere to go, and stop the wait queues"
            }
            topology::CHECK => "checks of this delay are refused: nothing can be armed with it",
            topology::QUARANTINE => {
                "what cannot be read cannot be put aside, and holds up its queue"
            }
            _ => "confirms with this key go elsewhere",
        };
        error(
            format!("binding of {queue} to {exchange}"),
            format!("it is missing (key {key:?}): {what}"),
            RESTART,
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::Severity;
    use super::*;

    const QUEUE: &str = "logistics.orders";

    fn expected() -> Topology {
        let second = std::time::Duration::from_secs(1);
        Topology::callback(&["5s".parse().unwrap()], 2).and(Topology::consumed(QUEUE, &[second]))
    }

    /// All as it should be.
    fn standing() -> Standing {
        let expected = expected();
        let exchanges = expected.exchanges.iter().map(|wanted| {
            let seen = SeenExchange {
                kind: kind(wanted.kind).to_owned(),
                durable: true,
                alternate: wanted.alternate.clone(),
            };
            (wanted.name.clone(), seen)
        });
        let queues = expected.queues.iter().map(|wanted| {
            let arguments =
                wanted.arguments.iter().map(|(name, value)| ((*name).to_owned(), json(value)));
            let consumed = [QUEUE, topology::CHECK_DUE].contains(&&*wanted.name)
                || wanted.name.starts_with("countersign.confirm.");
            let seen = SeenQueue {
                kind: "quorum".to_owned(),
                durable: true,
                arguments: arguments.collect(),
                consumers: consumed.into(),
                leader: Some("a".to_owned()),
                members: 3,
                online: 3,
                ..SeenQueue::default()
            };
            (wanted.name.clone(), seen)
        });
        let bindings =
            expected.bindings.iter().map(|b| (b.exchange.clone(), b.key.clone(), b.queue.clone()));
        Standing {
            exchanges: exchanges.collect(),
            queues: queues.collect(),
            bindings: bindings.collect(),
        }
    }

    fn found(change: impl FnOnce(&mut Standing)) -> Vec<(Severity, String, String)> {
        let mut standing = standing();
        change(&mut standing);
        check(&expected(), &[QUEUE.to_owned()], &standing)
            .into_iter()
            .map(|finding| (finding.severity, finding.subject, finding.finding))
            .collect()
    }

    fn queue<'a>(standing: &'a mut Standing, name: &str) -> &'a mut SeenQueue {
        standing.queues.get_mut(name).unwrap()
    }

    #[test]
    fn what_is_as_declared_has_no_findings() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn each_thing_that_is_not_is_found_once_and_named() {
        use Severity::{Error, Warning};
        type Change = fn(&mut Standing);
        let cases: [(Change, Severity, &str, &str); 19] = [
            (
                |s| drop(s.exchanges.remove("countersign.check")),
                Error,
                "exchange countersign.check",
                "missing",
            ),
            (
                |s| s.exchanges.get_mut("countersign.check").unwrap().kind = "topic".to_owned(),
                Error,
                "exchange countersign.check",
                "topic",
            ),
            (
                |s| {
                    s.exchanges.get_mut("countersign.check").unwrap().alternate =
                        Some("all".to_owned());
                },
                Error,
                "exchange countersign.check",
                "acked instead of returned",
            ),
            (
                |s| s.exchanges.get_mut("countersign.confirm").unwrap().alternate = None,
                Error,
                "exchange countersign.confirm",
                "none",
            ),
            (
                |s| drop(s.queues.remove("countersign.check.due")),
                Error,
                "queue countersign.check.due",
                "missing",
            ),
            (
                |s| drop(s.queues.remove("logistics.orders.retry.1s")),
                Error,
                "queue logistics.orders.retry.1s",
                "missing",
            ),
            (
                |s| queue(s, "countersign.check.wait.5s").kind = "classic".to_owned(),
                Error,
                "queue countersign.check.wait.5s",
                "classic",
            ),
            (
                |s| {
                    queue(s, "countersign.check.wait.5s").arguments["x-message-ttl"] = json!(1);
                },
                Error,
                "queue countersign.check.wait.5s",
                "x-message-ttl is 1, not 5000",
            ),
            (
                |s| {
                    queue(s, "countersign.check.wait.5s")
                        .arguments
                        .remove("x-dead-letter-strategy");
                },
                Error,
                "queue countersign.check.wait.5s",
                "x-dead-letter-strategy is missing",
            ),
            (
                |s| {
                    queue(s, QUEUE).arguments.insert("x-expires".to_owned(), json!(5));
                },
                Error,
                "queue logistics.orders",
                "should not be there",
            ),
            (
                |s| queue(s, "countersign.confirm.1").online = 1,
                Error,
                "queue countersign.confirm.1",
                "answers nobody",
            ),
            (
                |s| queue(s, "countersign.confirm.1").leader = None,
                Error,
                "queue countersign.confirm.1",
                "answers nobody",
            ),
            (
                |s| queue(s, "countersign.confirm.1").online = 2,
                Warning,
                "queue countersign.confirm.1",
                "2 of its 3",
            ),
            (
                |s| queue(s, "countersign.confirm.1").consumers = 0,
                Error,
                "queue countersign.confirm.1",
                "nobody consumes",
            ),
            (
                |s| queue(s, QUEUE).consumers = 0,
                Warning,
                "queue logistics.orders",
                "nobody consumes",
            ),
            (
                |s| queue(s, "countersign.check.wait.5s").consumers = 1,
                Error,
                "queue countersign.check.wait.5s",
                "never comes due",
            ),
            (
                |s| queue(s, "countersign.quarantine").ready = 1,
                Warning,
                "queue countersign.quarantine",
                "stored: 1",
            ),
            (
                |s| queue(s, "logistics.orders.dead").unacked = 2,
                Warning,
                "queue logistics.orders.dead",
                "would not have: 2",
            ),
            (
                |s| s.bindings.retain(|(exchange, ..)| exchange != "countersign.check.due"),
                Error,
                "binding of countersign.check.due to countersign.check.due",
                "nowhere to go",
            ),
        ];
        for (change, severity, subject, part) in cases {
            let found = found(change);
            let [(seen, of, what)] = &found[..] else { panic!("{subject}: {found:?}") };
            assert_eq!((*seen, of.as_str()), (severity, subject));
            assert!(what.contains(part), "{what}: {part}");
        }
    }

    #[test]
    fn a_limit_that_is_nearly_reached_is_an_error() {
        for (name, held) in
            [("countersign.quarantine", 90_000), ("countersign.check.wait.5s", 900_000)]
        {
            let found = found(|s| queue(s, name).ready = held);
            assert_eq!((found.len(), found[0].0), (1, Severity::Error), "{name}");
        }
    }
}

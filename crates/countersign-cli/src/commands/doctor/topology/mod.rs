//! Exchanges, queues and bindings: those that the broker has, against those that it has to have.

pub(crate) mod actual;
mod binding;
mod depth;
mod exchange;
pub(crate) mod expected;
mod policy;
mod queue;
mod role;
#[cfg(test)]
mod tests;

use countersign_protocol::Topology;

use self::actual::ActualTopology;
use self::role::Role;
use super::finding::Finding;

/// How the broker differs from `expected`. `consumed` are the consumers' queues in it.
pub(crate) fn check(
    expected: &Topology,
    consumed: &[String],
    actual: &ActualTopology,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for wanted in &expected.exchanges {
        findings.extend(exchange::check(wanted, actual.exchanges.get(&wanted.name)));
    }
    for wanted in &expected.queues {
        let (name, role) = (&wanted.name, Role::of(&wanted.name, consumed));
        let Some(actual) = actual.queues.get(name) else {
            findings.push(queue::missing(name, role));
            continue;
        };
        findings.extend(queue::declaration(wanted, actual));
        findings.extend(policy::check(wanted, actual));
        findings.extend(queue::replicas(name, actual));
        findings.extend(queue::consumers(name, role, actual));
        findings.extend(depth::check(name, role, actual));
    }
    findings.extend(expected.bindings.iter().filter_map(|wanted| binding::check(wanted, actual)));
    findings
}

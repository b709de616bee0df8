//! The broker: known bugs of its version, nodes that are down, alarms.

use super::finding::{Finding, error, note, warning};

/// The broker, as the management API shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broker {
    pub(crate) version: String,
    pub(crate) nodes: Vec<Node>,
}

/// A node of the broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) running: bool,
    pub(crate) memory_alarm: bool,
    pub(crate) disk_alarm: bool,
    /// Nodes that it has lost sight of.
    pub(crate) cut_off_from: Vec<String>,
}

type Version = (u32, u32, u32);

/// Dead-lettering at least once begins with it (<https://www.rabbitmq.com/docs/quorum-queues>).
const OLDEST: Version = (3, 10, 0);
/// The dead-letter worker comes back after a failure from here on.
const RESILIENT: Version = (3, 10, 20);
/// A copied `x-death` header no longer stops a wait queue, and consumer priorities hold for single
/// active consumers.
const SOUND: Version = (4, 0, 0);
/// Only real failures count as deliveries.
const COUNTS_FAILURES: Version = (4, 3, 0);
const RECOMMENDED: Version = (4, 3, 3);
const UPGRADE: &str = "upgrade RabbitMQ, to 4.3.3 or later";

/// The faults of the broker.
pub(crate) fn check(broker: &Broker) -> Vec<Finding> {
    let mut findings: Vec<Finding> = version(&broker.version).into_iter().collect();
    findings.extend(broker.nodes.iter().flat_map(node));
    findings
}

fn version(text: &str) -> Vec<Finding> {
    let subject = format!("RabbitMQ {text}");
    let Some(version) = read(text) else {
        return vec![note(
            subject,
            "its version cannot be read",
            "compare it by hand: 4.3.3 or later is recommended",
        )];
    };
    if version < OLDEST {
        return vec![error(
            subject,
            "before 3.10 no queue dead-letters at least once: checks can be lost",
            UPGRADE,
        )];
    }
    let mut findings = Vec::new();
    if version < RESILIENT {
        findings.push(warning(
            &subject,
            "its dead-letter worker may not come back after a failure (mended in 3.10.20): checks then stay in their wait queues; and a node killed within a second of a queue's declaration may come back with a queue that cannot be used",
            format!("{UPGRADE}; until then restart the node when checks stay past their delay"),
        ));
    }
    if version < SOUND {
        findings.push(warning(
            &subject,
            "before 4.0 messages published with a forged x-death header can stop a wait queue for good",
            format!("{UPGRADE}; until then let only our services publish to countersign.check"),
        ));
    } else if version < COUNTS_FAILURES {
        findings.push(note(
            &subject,
            "from 4.0 to 4.2 every requeue counts towards the delivery limit, of 20 where a queue sets none",
            format!("{UPGRADE}, or keep x-delivery-limit on every consumed queue, as ours have"),
        ));
    } else if version < RECOMMENDED {
        findings.push(note(subject, "it works; 4.3.3 or later is recommended", UPGRADE));
    }
    findings
}

/// The numbers of `4.0.5`, or of `4.1.0-rc.1`.
fn read(text: &str) -> Option<Version> {
    let numbers = text.split(['-', '+', '~']).next()?;
    let mut numbers = numbers.split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

fn node(node: &Node) -> Vec<Finding> {
    let subject = format!("node {}", node.name);
    let mut findings = Vec::new();
    if !node.running {
        findings.push(error(
            &subject,
            "it does not run",
            "start it: a quorum queue needs most of its nodes",
        ));
    }
    for (raised, what, fix) in [
        (
            node.memory_alarm,
            "memory",
            "let consumers catch up, or give it more memory (vm_memory_high_watermark)",
        ),
        (node.disk_alarm, "disk", "free some of its disk (disk_free_limit)"),
    ] {
        if raised {
            findings.push(error(
                &subject,
                format!(
                    "{what} alarm: the broker takes no message, so no order is placed and no confirm sent"
                ),
                fix,
            ));
        }
    }
    if !node.cut_off_from.is_empty() {
        findings.push(error(
            subject,
            format!("it is cut off from {}", node.cut_off_from.join(", ")),
            "mend the network, then restart the nodes of the smaller part (https://www.rabbitmq.com/docs/partitions)",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity::{self, Error, Note, Warning};
    use super::*;

    fn severities(findings: &[Finding]) -> Vec<Severity> {
        findings.iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn each_version_gets_what_it_deserves() {
        for (text, expected) in [
            ("3.9.29", vec![Error]),
            ("3.10.8", vec![Warning, Warning]),
            ("3.10.20", vec![Warning]),
            ("3.13.7", vec![Warning]),
            ("4.0.5", vec![Note]),
            ("4.2.1", vec![Note]),
            ("4.3.0", vec![Note]),
            ("4.3.3", vec![]),
            ("4.4.0-rc.1", vec![]),
            ("5.0", vec![]),
            ("unknown", vec![Note]),
        ] {
            assert_eq!(severities(&version(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_node_that_is_down_alarmed_or_cut_off_is_an_error() {
        let good = Node { name: "a".to_owned(), running: true, ..Node::default() };
        assert_eq!(node(&good), []);
        for bad in [
            Node { running: false, ..good.clone() },
            Node { memory_alarm: true, ..good.clone() },
            Node { disk_alarm: true, ..good.clone() },
            Node { cut_off_from: vec!["b".to_owned()], ..good.clone() },
        ] {
            assert_eq!(severities(&node(&bad)), [Error], "{bad:?}");
        }
    }
}

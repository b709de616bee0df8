//! Exchanges: there, of the right kind, with the right alternate exchange.

use countersign_protocol::topology::{self, Exchange, ExchangeKind};

use super::super::finding::{Finding, RESTART_CALLBACK, error};
use super::actual::ActualExchange;

/// How an exchange differs from what it has to be.
pub(crate) fn check(wanted: &Exchange, actual: Option<&ActualExchange>) -> Vec<Finding> {
    let subject = format!("exchange {}", wanted.name);
    let Some(actual) = actual else {
        return vec![error(subject, "it is missing", RESTART_CALLBACK)];
    };
    let mut findings = Vec::new();
    if actual.kind != kind(wanted.kind) || !actual.durable {
        let is = if actual.durable { "" } else { ", not durable" };
        findings.push(error(
            &subject,
            format!("it is of kind {}{is}, not a durable {}", actual.kind, kind(wanted.kind)),
            "stop the upstreams, the consumers and the callback service, delete the exchange, and start the callback service first",
        ));
    }
    if actual.alternate == wanted.alternate {
        return findings;
    }
    let (found, fix) = match (&actual.alternate, &wanted.alternate) {
        // RabbitMQ acks a mandatory publish that an alternate exchange takes, and returns nothing.
        (Some(alternate), None) if wanted.name == topology::CHECK => (
            format!(
                "it has the alternate exchange {alternate}: a check that no queue takes is acked instead of returned, so messages go out unwatched"
            ),
            "take alternate-exchange out of the policy or the exchange's arguments",
        ),
        (actual, wanted) => (
            format!("its alternate exchange is {}, not {}", name(actual), name(wanted)),
            "take alternate-exchange out of the policy, or delete the exchange and restart the callback service",
        ),
    };
    findings.push(error(subject, found, fix));
    findings
}

/// The kind as the management API spells it.
pub(crate) fn kind(kind: ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Topic => "topic",
    }
}

fn name(alternate: &Option<String>) -> &str {
    alternate.as_deref().unwrap_or("none")
}

//! The callback service's own account: overdue messages, consumers without progress, paused upstreams.

use countersign_protocol::grpc::count_overdue_response::Group;
use countersign_protocol::grpc::list_consumers_response::Consumer;
use countersign_protocol::grpc::list_upstreams_response::{Sweep, Upstream};

use super::finding::{Finding, error, note, warning};
use crate::terminal::clock::span;
use crate::terminal::table::count;

/// Overdue messages that an operator has to look at. `groups` are counted by state and cause.
pub(crate) fn overdue(groups: &[Group]) -> Vec<Finding> {
    let of = |state: &str| -> (u64, Vec<String>) {
        let groups: Vec<&Group> = groups.iter().filter(|group| group.state == state).collect();
        let causes =
            groups.iter().map(|group| format!("{} {}", count(group.messages), group.cause));
        (groups.iter().map(|group| group.messages).sum(), causes.collect())
    };
    let mut findings = Vec::new();
    let (conflicts, _) = of("conflict");
    if conflicts > 0 {
        findings.push(error(
            "the ledger",
            format!("messages in conflict: {} (an upstream says that they were never committed, and a consumer or the upstream's own records say otherwise)", count(conflicts)),
            "countersign overdue --state conflict; find out which of the two is wrong, then countersign close",
        ));
    }
    let (parked, causes) = of("parked");
    if parked > 0 {
        findings.push(warning(
            "the ledger",
            format!("parked messages: {} ({})", count(parked), causes.join(", ")),
            "countersign overdue --state parked; mend the cause, then countersign resend or close",
        ));
    }
    let caused_by = |cause: &str| -> u64 {
        groups.iter().filter(|group| group.cause == cause).map(|group| group.messages).sum()
    };
    let misdirected = caused_by("misdirected");
    if misdirected > 0 {
        findings.push(error(
            "the ledger",
            format!("messages whose upstream's address leads to another upstream, or to one with another database: {}", count(misdirected)),
            "countersign upstreams says which; set COUNTERSIGN_UPSTREAMS of the callback service right, or the DATABASE_URL of the upstream's server",
        ));
    }
    let nowhere = caused_by("no_address");
    if nowhere > 0 {
        findings.push(error(
            "the ledger",
            format!("messages that wait for the address of their upstream: {}", count(nowhere)),
            "countersign overdue --cause no_address names the upstream; add it to COUNTERSIGN_UPSTREAMS of the callback service",
        ));
    }
    findings
}

/// Consumers that messages wait for, and that confirm none.
pub(crate) fn consumers(consumers: &[Consumer]) -> Vec<Finding> {
    let stuck = consumers.iter().filter_map(|consumer| {
        let Consumer { consumer: name, queue, upstream, summary, deferred, .. } = consumer;
        let subject = match queue.as_str() {
            "" => format!("consumer {name}"),
            queue => format!("consumer {name} of {queue}"),
        };
        match consumer.state.as_str() {
            "no_progress" => Some(error(
                subject,
                format!("messages of {upstream} wait for it, and it confirms none: {summary}"),
                format!("look at {name}: is it running, does it hang, can it reach its database?"),
            )),
            "never_seen" if *deferred > 0 => Some(warning(
                subject,
                format!("it has to confirm messages of {upstream} and never has: {summary}"),
                "is its name spelt the same on both sides, and has it ever run?",
            )),
            _ => None,
        }
    });
    stuck.collect()
}

/// Upstreams that are paused, or asked for canaries alone.
pub(crate) fn upstreams(upstreams: &[Upstream]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for upstream in upstreams {
        let Upstream { upstream: name, address, summary, due, .. } = upstream;
        let subject = format!("upstream {name}");
        if upstream.breaker == "open" {
            findings.push(error(
                &subject,
                format!("its circuit is open: it does not answer at {address} and is paused; messages that wait: {}. {summary}", count(*due)),
                format!("is {name} running, and can the callback service reach {address}?"),
            ));
        }
        findings.extend(upstream.sweeps.iter().filter_map(|sweep| of_sweep(&subject, sweep)));
        if upstream.canaries_only {
            findings.push(note(
                &subject,
                format!(
                    "many messages were missing lately: the callback service asks for canaries alone, {} at a time",
                    upstream.canaries
                ),
                "the number grows by itself as consumers confirm canaries; countersign upstreams",
            ));
        }
    }
    findings
}

/// How far a sweep may be behind: it is for a while after an outage.
const BEHIND_MS: u64 = 10 * 60 * 1_000;
/// How long a sweep may say nothing: it says something every minute by default.
const SILENT_MS: u64 = 15 * 60 * 1_000;

fn of_sweep(subject: &str, sweep: &Sweep) -> Option<Finding> {
    let Sweep { check_delay_ms, behind_ms, told_ms_ago, .. } = sweep;
    let which = span(*check_delay_ms);
    if *told_ms_ago >= SILENT_MS {
        return Some(warning(
            subject,
            format!(
                "its sweep of messages with a check delay of {which} has said nothing for {}: what the broker loses with its checks is not found",
                span(*told_ms_ago)
            ),
            "does a process of it run with COUNTERSIGN_CALLBACK set? If that upstream or check delay is gone for good, this line goes after the callback service's retention",
        ));
    }
    (*behind_ms >= BEHIND_MS).then(|| {
        warning(
            subject,
            format!("its sweep of messages with a check delay of {which} is {} behind: what the broker loses with its checks is found that much later", span(*behind_ms)),
            "it catches up by itself; its log says what holds it up",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity::{self, Error, Note, Warning};
    use super::*;

    fn severities(findings: &[Finding]) -> Vec<Severity> {
        findings.iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn overdue_messages_are_found_by_what_is_to_be_done_about_them() {
        let group = |state: &str, cause: &str, messages| Group {
            state: state.to_owned(),
            cause: cause.to_owned(),
            messages,
            ..Group::default()
        };
        assert_eq!(overdue(&[]), []);
        assert_eq!(overdue(&[group("waiting", "not_confirmed", 7)]), []);
        let found = overdue(&[
            group("parked", "rejected", 2),
            group("parked", "resends_used_up", 1_000),
            group("conflict", "conflict", 1),
            group("waiting", "no_address", 3),
        ]);
        assert_eq!(severities(&found), [Error, Warning, Error]);
        assert_eq!(found[1].finding, "parked messages: 1,002 (2 rejected, 1,000 resends_used_up)");
    }

    #[test]
    fn only_a_consumer_that_messages_wait_for_is_found() {
        let consumer = |state: &str, deferred| Consumer {
            consumer: "logistics".to_owned(),
            state: state.to_owned(),
            deferred,
            ..Consumer::default()
        };
        for (state, deferred, expected) in [
            ("idle", 0, vec![]),
            ("progressing", 9, vec![]),
            ("no_progress", 9, vec![Error]),
            ("never_seen", 0, vec![]),
            ("never_seen", 1, vec![Warning]),
        ] {
            assert_eq!(severities(&consumers(&[consumer(state, deferred)])), expected, "{state}");
        }
    }

    #[test]
    fn an_upstream_with_an_open_circuit_is_found() {
        let upstream = |breaker: &str, canaries_only| Upstream {
            upstream: "orders".to_owned(),
            breaker: breaker.to_owned(),
            canaries_only,
            ..Upstream::default()
        };
        assert_eq!(severities(&upstreams(&[upstream("closed", false)])), []);
        assert_eq!(severities(&upstreams(&[upstream("open", true)])), [Error, Note]);
    }

    #[test]
    fn a_sweep_that_is_behind_or_silent_is_found() {
        let orders = |behind_ms, told_ms_ago| Upstream {
            upstream: "orders".to_owned(),
            sweeps: vec![Sweep {
                check_delay_ms: 300_000,
                behind_ms,
                told_ms_ago,
                ..Sweep::default()
            }],
            ..Upstream::default()
        };
        for (behind_ms, told_ms_ago, found) in [
            (599_999, 899_999, None),
            (600_000, 0, Some("behind")),
            (600_000, 900_000, Some("has said nothing")),
        ] {
            let findings = upstreams(&[orders(behind_ms, told_ms_ago)]);
            assert_eq!(severities(&findings), vec![Warning; usize::from(found.is_some())]);
            if let Some(text) = found {
                assert!(format!("{findings:?}").contains(text), "{findings:?}");
            }
        }
    }
}

//! Queues that hold too much, or messages that a person has to look at.

use countersign_protocol::topology::{MAX_QUARANTINED, MAX_WAITING_CHECKS};

use super::super::finding::{Finding, error, warning};
use super::actual::ActualQueue;
use super::role::Role;
use crate::terminal::table::count;

/// From this part of a limit on, the limit is an error: there is still time to act.
const NEARLY: f64 = 0.9;

/// How much the queue holds, against what its part allows.
pub(crate) fn check(name: &str, role: Role<'_>, actual: &ActualQueue) -> Option<Finding> {
    let subject = format!("queue {name}");
    let held = actual.ready + actual.unacked;
    match role {
        Role::Quarantine if is_nearly(held, MAX_QUARANTINED) => Some(error(
            subject,
            format!(
                "messages in it: {}; past {} the broker drops the oldest",
                count(held),
                count(MAX_QUARANTINED)
            ),
            "countersign quarantine list, then replay or drop",
        )),
        Role::Quarantine if held > 0 => Some(warning(
            subject,
            format!("messages in it that could not be read or stored: {}", count(held)),
            "countersign quarantine list",
        )),
        Role::CheckWait if is_nearly(held, MAX_WAITING_CHECKS) => Some(error(
            subject,
            format!(
                "checks that wait in it: {}; past {} no message can be armed",
                count(held),
                count(MAX_WAITING_CHECKS)
            ),
            "choose a shorter check delay for some upstreams",
        )),
        Role::Dead(queue) if held > 0 => Some(warning(
            subject,
            format!("deliveries in it that the consumer of {queue} rejected: {}", count(held)),
            format!(
                "look at countersign-reason in them (management, Get messages); mend the consumer of {queue}, then countersign resend"
            ),
        )),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a part of a limit of 1,000,000 at most")]
fn is_nearly(held: u64, limit: i64) -> bool {
    held as f64 >= limit as f64 * NEARLY
}

//! Policies: one with a broad pattern can make checks early or lossy, or delete their queue.

use countersign_protocol::topology::{Argument, Queue};
use serde_json::Value;

use super::super::finding::{Finding, error};
use super::actual::ActualQueue;

/// Which of the two the broker applies when an argument and a policy disagree (reproduced on 3.10.8).
enum Rule {
    /// The smaller of the two.
    Smaller,
    /// The policy.
    Policy,
    /// The argument, so that a policy matters only where the queue has none.
    Argument,
}

/// The keys of a policy with which the broker treats messages in another way.
const KEYS: [(&str, Rule); 9] = [
    ("message-ttl", Rule::Smaller),
    ("expires", Rule::Smaller),
    ("max-length", Rule::Smaller),
    ("max-length-bytes", Rule::Smaller),
    ("delivery-limit", Rule::Smaller),
    ("overflow", Rule::Policy),
    ("dead-letter-exchange", Rule::Argument),
    ("dead-letter-routing-key", Rule::Argument),
    ("dead-letter-strategy", Rule::Argument),
];

/// Every key of the policy with which the queue does not do what its arguments say.
pub(crate) fn check(wanted: &Queue, actual: &ActualQueue) -> Vec<Finding> {
    let differing = KEYS.iter().filter_map(|(key, rule)| {
        let policy = actual.policy.get(*key)?;
        let argument = wanted
            .arguments
            .iter()
            .find_map(|(name, value)| (name.strip_prefix("x-") == Some(*key)).then_some(value));
        changes(rule, argument, policy).then(|| {
            error(
                format!("queue {}", wanted.name),
                format!("the policy {} sets {key} to {policy}: {}", actual.policies.join(" and "), harm(key)),
                format!(
                    "leave our queues out of its pattern, such as ^(?!countersign\\.), or give them a policy of their own with a higher priority and without {key}"
                ),
            )
        })
    });
    differing.collect()
}

fn changes(rule: &Rule, argument: Option<&Argument>, policy: &Value) -> bool {
    match (rule, argument) {
        (_, None) => true,
        (Rule::Argument, Some(_)) => false,
        (Rule::Policy, Some(Argument::Text(text))) => policy.as_str() != Some(text),
        (Rule::Smaller, Some(Argument::Integer(number))) => {
            policy.as_i64().is_none_or(|policy| policy < *number)
        }
        (Rule::Policy | Rule::Smaller, Some(_)) => true,
    }
}

fn harm(key: &str) -> &'static str {
    match key {
        "message-ttl" => "its messages leave it early, or for good",
        "expires" => "while no consumer reads it, the broker deletes it with all messages in it",
        "max-length" | "max-length-bytes" => "it takes less than it has to",
        "delivery-limit" => "a consumer that is down for a while loses its messages",
        "overflow" => {
            "past its limit the broker drops messages, and its dead letters can be lost (at most once)"
        }
        _ => "its dead letters go another way",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wait_queue() -> Queue {
        let arguments = vec![
            ("x-message-ttl", Argument::Integer(5_000)),
            ("x-overflow", Argument::Text("reject-publish".to_owned())),
            ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
        ];
        Queue { name: "countersign.check.wait.5s".to_owned(), arguments }
    }

    #[test]
    fn only_what_changes_the_queue_is_found() {
        for (key, value, is_found) in [
            ("message-ttl", json!(4_999), true),
            ("message-ttl", json!(5_000), false),
            ("message-ttl", json!(60_000), false),
            ("expires", json!(60_000), true),
            ("max-length", json!(10), true),
            ("overflow", json!("drop-head"), true),
            ("overflow", json!("reject-publish"), false),
            ("dead-letter-strategy", json!("at-most-once"), false),
            ("dead-letter-exchange", json!("elsewhere"), true),
            ("delivery-limit", json!(20), true),
            ("queue-leader-locator", json!("balanced"), false),
        ] {
            let mut actual =
                ActualQueue { policies: vec!["broad".to_owned()], ..ActualQueue::default() };
            actual.policy.insert(key.to_owned(), value.clone());
            let findings = check(&wait_queue(), &actual);
            assert_eq!(findings.len(), usize::from(is_found), "{key} {value}: {findings:?}");
            if let Some(finding) = findings.first() {
                assert!(finding.finding.contains("broad") && finding.fix.contains(key));
            }
        }
    }
}

//! What RabbitMQ's management API tells.

use std::time::Duration;

use anyhow::Context as _;
use countersign_management::{Management, ManagementUrl};
use countersign_protocol::Topology;
use serde_json::{Map, Value};
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::broker::{Broker, Node};
use super::clocks::Clock;
use super::topology::actual::{ActualExchange, ActualQueue, ActualTopology};
use crate::terminal::clock::now_ms;

/// An operator waits for the answer; a broker with thousands of queues takes seconds for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Nothing is sent yet.
pub(crate) fn client(url: &ManagementUrl) -> Management {
    Management::new(url.clone(), ANSWER_WITHIN)
}

/// The broker, and its clock.
///
/// # Errors
/// When the API does not answer, or does not let this user look.
pub(crate) async fn broker(client: &Management) -> anyhow::Result<(Broker, Option<Clock>)> {
    let before = now_ms();
    let overview = client.look(&["overview"], "").await?;
    let clock = overview.date.and_then(|date| clock(&date, before, now_ms()));
    let overview = overview.found.with_context(|| missing(client, "overview"))?;
    let nodes = list(client, &["nodes"], "").await?;
    let version = text(&overview, "rabbitmq_version").unwrap_or_else(|| "unknown".to_owned());
    Ok((Broker { version, nodes: nodes.iter().map(node).collect() }, clock))
}

/// What stands in a vhost.
///
/// # Errors
/// When the API does not answer, or does not let this user look.
pub(crate) async fn queues(client: &Management, vhost: &str) -> anyhow::Result<ActualTopology> {
    let columns = "columns=name,type,durable,arguments,policy,operator_policy,effective_policy_definition,consumers,leader,members,online,messages_ready,messages_unacknowledged";
    let queues = list(client, &["queues", vhost], columns).await?;
    let queues = queues.iter().filter_map(|seen| Some((text(seen, "name")?, queue(seen))));
    Ok(ActualTopology { queues: queues.collect(), ..ActualTopology::default() })
}

/// The exchanges of a topology, and what is bound to them.
///
/// # Errors
/// When the API does not answer, or does not let this user look.
pub(crate) async fn exchanges(
    client: &Management,
    vhost: &str,
    topology: &Topology,
    mut actual: ActualTopology,
) -> anyhow::Result<ActualTopology> {
    let policies = list(client, &["policies", vhost], "").await?;
    for name in topology.exchanges.iter().map(|exchange| &exchange.name) {
        let Some(seen) = client.get(&["exchanges", vhost, name]).await? else { continue };
        actual.exchanges.insert(name.clone(), exchange(&seen, &policies));
        for bound in bound(client, vhost, name).await? {
            if let (Some(key), Some(to)) =
                (text(&bound, "routing_key"), text(&bound, "destination"))
            {
                actual.bindings.insert((name.clone(), key, to));
            }
        }
    }
    Ok(actual)
}

/// The keys with which queues are bound to an exchange.
///
/// # Errors
/// When the API does not answer, or does not let this user look.
pub(crate) async fn keys(
    client: &Management,
    vhost: &str,
    exchange: &str,
) -> anyhow::Result<Vec<String>> {
    let bound = bound(client, vhost, exchange).await?;
    Ok(bound.iter().filter_map(|bound| text(bound, "routing_key")).collect())
}

async fn bound(client: &Management, vhost: &str, exchange: &str) -> anyhow::Result<Vec<Value>> {
    let found = client.get(&["exchanges", vhost, exchange, "bindings", "source"]).await?;
    Ok(found.map(array).unwrap_or_default())
}

async fn list(client: &Management, path: &[&str], query: &str) -> anyhow::Result<Vec<Value>> {
    let found = client.look(path, query).await?.found;
    Ok(array(found.with_context(|| missing(client, &path.join("/")))?))
}

fn missing(client: &Management, what: &str) -> String {
    format!("{} has no {what}", client.url())
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}

fn node(seen: &Value) -> Node {
    let is = |name: &str| seen.get(name).and_then(Value::as_bool).unwrap_or(false);
    let cut_off_from = seen.get("partitions").cloned().map(array).unwrap_or_default();
    Node {
        name: text(seen, "name").unwrap_or_default(),
        running: is("running"),
        memory_alarm: is("mem_alarm"),
        disk_alarm: is("disk_free_alarm"),
        cut_off_from: cut_off_from.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
    }
}

fn queue(seen: &Value) -> ActualQueue {
    // An empty object comes as an empty array.
    let object = |name: &str| match seen.get(name) {
        Some(Value::Object(fields)) => fields.clone(),
        _ => Map::new(),
    };
    let length = |name: &str| seen.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let number = |name: &str| seen.get(name).and_then(Value::as_u64).unwrap_or(0);
    let policies = ["policy", "operator_policy"].iter().filter_map(|name| text(seen, name));
    ActualQueue {
        kind: text(seen, "type").unwrap_or_default(),
        durable: seen.get("durable").and_then(Value::as_bool).unwrap_or(false),
        arguments: object("arguments"),
        policy: object("effective_policy_definition"),
        policies: policies.filter(|name| !name.is_empty()).collect(),
        consumers: number("consumers"),
        leader: text(seen, "leader"),
        members: length("members"),
        online: length("online"),
        ready: number("messages_ready"),
        unacked: number("messages_unacknowledged"),
    }
}

fn exchange(seen: &Value, policies: &[Value]) -> ActualExchange {
    let argument =
        seen.get("arguments").and_then(|arguments| text(arguments, "alternate-exchange"));
    let policy = text(seen, "policy").and_then(|name| {
        let policy = policies.iter().find(|policy| text(policy, "name").as_ref() == Some(&name))?;
        text(policy.get("definition")?, "alternate-exchange")
    });
    ActualExchange {
        kind: text(seen, "type").unwrap_or_default(),
        durable: seen.get("durable").and_then(Value::as_bool).unwrap_or(false),
        alternate: argument.or(policy),
    }
}

/// The broker's clock, which an answer tells in whole seconds.
fn clock(date: &str, before_ms: i64, after_ms: i64) -> Option<Clock> {
    const HALF_A_SECOND_MS: i64 = 500;
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let told = PrimitiveDateTime::parse(date, format).ok()?.assume_utc().unix_timestamp() * 1_000;
    let read_at = i64::midpoint(before_ms, after_ms);
    Some(Clock {
        whose: "the broker's clock".to_owned(),
        ahead_ms: told + HALF_A_SECOND_MS - read_at,
        unsure_ms: HALF_A_SECOND_MS + (after_ms - before_ms) / 2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_clock_is_read_to_the_second() {
        let told =
            clock("Sat, 21 Nov 2026 03:20:34 GMT", 1_795_231_234_000, 1_795_231_234_200).unwrap();
        assert_eq!((told.ahead_ms, told.unsure_ms), (400, 600));
        assert!(clock("yesterday", 0, 0).is_none());
    }
}

//! What must stand in the broker: each test is one way to lose a message quietly, closed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_protocol::Tier;
use countersign_protocol::Topology;
use countersign_protocol::topology::{
    Argument, CHECK, CHECK_DUE, CONFIRM, CONFIRM_FALLBACK, Exchange, ExchangeKind, QUARANTINE,
    Queue, ROLLED_BACK, confirm_queue, dead_queue, retry_queue,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::generate;

const RETRY_DELAYS: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

fn callback(shards: u16) -> Topology {
    let tiers = ["5s", "30s", "5m"].map(|text| text.parse::<Tier>().expect("a tier"));
    Topology::callback(&tiers, shards)
}

fn consumed() -> Topology {
    Topology::consumed("logistics.orders", &RETRY_DELAYS)
}

fn exchange<'a>(topology: &'a Topology, name: &str) -> &'a Exchange {
    topology.exchanges.iter().find(|e| e.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn queue<'a>(topology: &'a Topology, name: &str) -> &'a Queue {
    topology.queues.iter().find(|q| q.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn argument<'a>(queue: &'a Queue, name: &str) -> Option<&'a Argument> {
    queue.arguments.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
}

fn integer(queue: &Queue, name: &str) -> Option<i64> {
    match argument(queue, name)? {
        Argument::Integer(number) => Some(*number),
        other => panic!("{name} of {} is {other:?}", queue.name),
    }
}

fn text<'a>(queue: &'a Queue, name: &str) -> Option<&'a str> {
    match argument(queue, name)? {
        Argument::Text(text) => Some(text),
        other => panic!("{name} of {} is {other:?}", queue.name),
    }
}

/// Where a message goes that `from` dead-letters; panics unless that is at least once, and somewhere.
fn dead_letters_to(topology: &Topology, from: &Queue) -> Vec<String> {
    assert_eq!(text(from, "x-dead-letter-strategy"), Some("at-least-once"), "{}", from.name);
    // Without it RabbitMQ falls back to at-most-once, with no more than a line in its log.
    assert_eq!(text(from, "x-overflow"), Some("reject-publish"), "{}", from.name);
    let via = text(from, "x-dead-letter-exchange").expect("a dead-letter exchange");
    if via.is_empty() {
        let key =
            text(from, "x-dead-letter-routing-key").expect("the default exchange needs a key");
        return vec![queue(topology, key).name.clone()];
    }
    // A dead letter that cannot be routed holds one of the queue's 32 slots for ever.
    assert_eq!(exchange(topology, via).kind, ExchangeKind::Fanout, "{via}");
    topology.bindings.iter().filter(|b| b.exchange == via).map(|b| b.queue.clone()).collect()
}

#[test]
fn an_unknown_tier_is_returned() {
    for topology in [Topology::arming(), callback(1)] {
        let check = exchange(&topology, CHECK);
        assert_eq!(check.kind, ExchangeKind::Direct);
        assert_eq!(check.alternate, None, "what goes to an alternate exchange counts as routed");
    }
    assert_eq!(Topology::arming().queues, [], "an upstream makes no place for checks nobody reads");
    assert_eq!(Topology::arming().bindings, []);
}

#[test]
fn a_rolled_back_notice_always_has_an_exchange_and_may_be_lost() {
    for topology in [Topology::arming(), callback(1)] {
        assert_eq!(exchange(&topology, ROLLED_BACK).kind, ExchangeKind::Fanout);
    }
    let topology = callback(1);
    assert!(topology.bindings.contains(&binding(ROLLED_BACK, "", ROLLED_BACK)));
    let queue = queue(&topology, ROLLED_BACK);
    assert_eq!(text(queue, "x-overflow"), None, "the oldest go: nobody is refused for them");
    assert!(integer(queue, "x-max-length").is_some());
}

#[test]
fn a_due_check_always_has_somewhere_to_go() {
    let topology = callback(1);
    assert_eq!(exchange(&topology, CHECK_DUE).kind, ExchangeKind::Fanout);
    for tier in ["5s", "30s", "5m"] {
        let wait = format!("countersign.check.wait.{tier}");
        assert_eq!(dead_letters_to(&topology, queue(&topology, &wait)), [CHECK_DUE]);
        let keys: Vec<_> = topology.bindings.iter().filter(|b| b.queue == wait).collect();
        assert_eq!((keys.len(), &*keys[0].exchange, &*keys[0].key), (1, CHECK, tier));
    }
}

#[test]
fn an_unknown_confirm_shard_loses_nothing() {
    for topology in [Topology::confirming(), callback(3)] {
        let confirm = exchange(&topology, CONFIRM);
        assert_eq!(confirm.kind, ExchangeKind::Direct);
        assert_eq!(confirm.alternate.as_deref(), Some(CONFIRM_FALLBACK));
        assert_eq!(exchange(&topology, CONFIRM_FALLBACK).kind, ExchangeKind::Fanout);
        let fallback = topology.bindings.iter().filter(|b| b.exchange == CONFIRM_FALLBACK);
        let queues: Vec<_> = fallback.map(|b| b.queue.clone()).collect();
        assert_eq!(queues, [confirm_queue(0)]);
    }
}

#[test]
fn every_confirm_shard_has_one_active_consumer_and_its_key() {
    for shards in [0, 1, 4] {
        let topology = callback(shards);
        for shard in 0..shards.max(1) {
            let name = confirm_queue(shard);
            let queue = queue(&topology, &name);
            assert_eq!(argument(queue, "x-single-active-consumer"), Some(&Argument::Boolean(true)));
            let key = shard.to_string();
            let bound = |b: &_| b == &binding(CONFIRM, &key, &name);
            assert!(topology.bindings.iter().any(bound), "{name} lacks its key");
        }
    }
}

fn binding(exchange: &str, key: &str, queue: &str) -> countersign_protocol::topology::Binding {
    countersign_protocol::topology::Binding {
        exchange: exchange.to_owned(),
        key: key.to_owned(),
        queue: queue.to_owned(),
    }
}

/// RabbitMQ 4.0 to 4.2 drop a message after 20 deliveries by default, and there each crash of a
/// consumer and each look through the management page counts.
#[test]
fn nothing_is_dropped_for_having_been_delivered_often() {
    let consumed = consumed();
    let callback = callback(2);
    let read_by_programs = [
        (&callback, CHECK_DUE.to_owned(), QUARANTINE.to_owned()),
        (&callback, confirm_queue(0), QUARANTINE.to_owned()),
        (&callback, confirm_queue(1), QUARANTINE.to_owned()),
        (&consumed, "logistics.orders".to_owned(), dead_queue("logistics.orders")),
    ];
    for (topology, name, dead) in read_by_programs {
        let queue = queue(topology, &name);
        assert!(integer(queue, "x-delivery-limit").is_some_and(|limit| limit >= 10_000), "{name}");
        assert_eq!(dead_letters_to(topology, queue), [dead], "{name}");
    }
    for (topology, name) in [(&callback, QUARANTINE), (&consumed, "logistics.orders.dead")] {
        let queue = queue(topology, name);
        assert!(integer(queue, "x-delivery-limit").is_some_and(|limit| limit >= 10_000), "{name}");
    }
}

#[test]
fn a_failed_delivery_comes_back_to_its_own_queue() {
    let topology = consumed();
    for delay in RETRY_DELAYS {
        let retry = queue(&topology, &retry_queue("logistics.orders", delay));
        assert_eq!(dead_letters_to(&topology, retry), ["logistics.orders"]);
        assert_eq!(
            integer(retry, "x-message-ttl").map(i128::from),
            i128::try_from(delay.as_millis()).ok()
        );
    }
}

#[test]
fn retry_queues_are_named_for_their_delay() {
    for (ms, name) in [(1_000, "q.retry.1s"), (60_000, "q.retry.60s"), (1_500, "q.retry.1500ms")] {
        assert_eq!(retry_queue("q", Duration::from_millis(ms)), name);
    }
}

#[test]
fn what_grows_without_a_reader_has_a_limit() {
    let topology = callback(1);
    for name in ["countersign.check.wait.5m", QUARANTINE] {
        let limit = integer(queue(&topology, name), "x-max-length");
        assert!(limit.is_some_and(|limit| (1_000..=10_000_000).contains(&limit)), "{name}");
    }
}

proptest! {
    /// Two parties that declare one queue with other arguments lock each other out (406).
    #[test]
    fn whoever_declares_a_thing_declares_it_alike(
        tiers in vec(generate::tier(), 0..6),
        more_tiers in vec(generate::tier(), 0..6),
        shards in 0_u16..20,
        delays in vec((1_u64..100_000_000).prop_map(Duration::from_millis), 0..5),
    ) {
        let everybody = Topology::arming()
            .and(Topology::confirming())
            .and(Topology::callback(&tiers, shards))
            .and(Topology::callback(&more_tiers, 1))
            .and(Topology::consumed("logistics.orders", &delays))
            .and(Topology::consumed("logistics.orders", &RETRY_DELAYS));
        let mut exchanges = BTreeMap::new();
        for exchange in &everybody.exchanges {
            let earlier = exchanges.entry(&exchange.name).or_insert(exchange);
            prop_assert_eq!(*earlier, exchange);
        }
        let mut queues = BTreeMap::new();
        for queue in &everybody.queues {
            let earlier = queues.entry(&queue.name).or_insert(queue);
            prop_assert_eq!(*earlier, queue);
        }
    }

    #[test]
    fn what_a_binding_or_a_dead_letter_names_is_declared_with_it(
        tiers in vec(generate::tier(), 0..6),
        shards in 0_u16..20,
        delays in vec((1_u64..100_000_000).prop_map(Duration::from_millis), 0..5),
    ) {
        for topology in [
            Topology::arming(),
            Topology::confirming(),
            Topology::callback(&tiers, shards),
            Topology::consumed("logistics.orders", &delays),
        ] {
            let mut exchanges: BTreeSet<&str> =
                topology.exchanges.iter().map(|e| e.name.as_str()).collect();
            for exchange in &topology.exchanges {
                if let Some(alternate) = &exchange.alternate {
                    prop_assert!(exchanges.contains(alternate.as_str()), "{}", alternate);
                }
            }
            for binding in &topology.bindings {
                prop_assert!(exchanges.contains(binding.exchange.as_str()), "{:?}", binding);
                queue(&topology, &binding.queue);
            }
            exchanges.insert("");
            for queue in &topology.queues {
                if text(queue, "x-dead-letter-exchange").is_some() {
                    prop_assert!(!dead_letters_to(&topology, queue).is_empty(), "{}", queue.name);
                }
                let arguments: BTreeSet<_> = queue.arguments.iter().map(|(name, _)| name).collect();
                prop_assert_eq!(arguments.len(), queue.arguments.len(), "{}", queue.name);
            }
        }
    }
}

/// The golden file is what a program in another language declares: with other arguments the broker
/// would refuse one of the two.
#[test]
fn the_golden_file_is_what_is_declared() {
    let golden: Value = serde_json::from_str(include_str!("../../golden/topology.json")).unwrap();
    assert_eq!(shown(&callback(1)), golden["callback"]);
    assert_eq!(shown(&consumed()), golden["consumer"]);
}

fn shown(topology: &Topology) -> Value {
    let mut exchanges = BTreeMap::new();
    for exchange in &topology.exchanges {
        let mut shown = json!({"type": match exchange.kind {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
        }});
        if let Some(alternate) = &exchange.alternate {
            shown["arguments"] = json!({"alternate-exchange": alternate});
        }
        exchanges.insert(&exchange.name, shown);
    }
    let mut queues = BTreeMap::new();
    for queue in &topology.queues {
        let arguments = queue.arguments.iter().map(|(name, value)| {
            let value = match value {
                Argument::Text(text) => json!(text),
                Argument::Integer(number) => json!(number),
                Argument::Boolean(boolean) => json!(boolean),
            };
            (*name, value)
        });
        let arguments = arguments.chain([("x-queue-type", json!("quorum"))]);
        queues.insert(&queue.name, arguments.collect::<BTreeMap<_, _>>());
    }
    let bindings: BTreeSet<_> =
        topology.bindings.iter().map(|b| (&b.exchange, &b.key, &b.queue)).collect();
    json!({"exchanges": exchanges, "queues": queues, "bindings": bindings})
}

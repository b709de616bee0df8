//! `countersign quarantine` against a real broker.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;

use countersign_amqp::{
    Browser, Connection, Consumer, Delivery, Outgoing, Properties, PublishOutcome, Publisher,
    PublisherSettings, Subscription,
};
use countersign_protocol::{Headers, MessageId, Tier, Topology, header};
use countersign_testbed::{Conduct, Proxy, SOON, Vhost, eventually};
use serde_json::{Value, json};
use tokio::time::Duration;

use crate::program::{countersign, json, program};

const QUARANTINE: &str = "countersign.quarantine";
const CONFIRMS: &str = "countersign.confirm.0";

/// A vhost with all that the callback service declares, and no callback service.
async fn vhost() -> Vhost {
    let vhost = countersign_testbed::vhost().await;
    let tier: Tier = "5s".parse().unwrap();
    let topology = Topology::callback(&[tier], 1);
    connect(&vhost, topology).await.close().await;
    vhost
}

async fn connect(vhost: &Vhost, topology: Topology) -> Connection {
    let connection = Connection::start(vhost.url().parse().unwrap(), "a test", topology);
    tokio::time::timeout(SOON, connection.ready()).await.unwrap();
    connection
}

async fn put_aside(vhost: &Vhost, source: &str, app_id: &str, reason: &str, body: &str) -> String {
    let id = MessageId::generate().to_string();
    let properties = json!({ "message_id": id, "app_id": app_id, "delivery_mode": 2,
        "headers": { "countersign-source": source, "countersign-reason": reason } });
    assert!(vhost.publish(QUARANTINE, "", properties, body.as_bytes()).await);
    id
}

async fn holds(vhost: &Vhost, queue: &str, messages: u64) {
    eventually(&format!("{queue} holds {messages}"), SOON, async || {
        match vhost.depth(queue).await {
            Some(depth) if depth.ready == messages && depth.unacked == 0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// The management API cannot read a queue with a single active consumer.
async fn first(vhost: &Vhost, queue: &str) -> Delivery {
    let address = vhost.url().parse().unwrap();
    let connection = Connection::start(address, "looking", Topology::default());
    let subscription = Subscription { queue: queue.to_owned(), prefetch: 1, priority: None };
    let mut consumer = Consumer::start(&connection, subscription);
    tokio::time::timeout(SOON, consumer.next()).await.unwrap().unwrap()
}

fn ids(told: &Value) -> Vec<&str> {
    told["messages"].as_array().unwrap().iter().map(|m| m["message_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_quarantine_is_listed_and_stays_as_it_was() {
    let vhost = vhost().await;
    let at = ["--amqp-url", vhost.url()];
    let list = async |more: &[&str]| json(&[&["quarantine", "list"], &at[..], more].concat()).await;

    let (code, told) = list(&[]).await;
    assert_eq!((code, &told), (Some(0), &json!({ "messages": [], "matching": 0 })));

    let one = put_aside(&vhost, CONFIRMS, "logistics", "version 2 is not known here", "{}").await;
    let two = put_aside(&vhost, CONFIRMS, "billing", "id: not a UUID", "[1]").await;
    let three = put_aside(&vhost, "elsewhere", "billing", "no idea", "{").await;
    for _ in 0..25 {
        let (code, told) = list(&[]).await;
        assert_eq!((code, ids(&told)), (Some(0), vec![&*one, &two, &three]), "in their order");
    }
    let (_, told) = list(&["--app-id", "billing", "--reason", "UUID"]).await;
    assert_eq!(ids(&told), [&*two]);
    let message = &told["messages"][0];
    assert_eq!(message["body"], json!("[1]"));
    assert_eq!(
        message["replay_to"],
        json!({ "exchange": "countersign.confirm", "routing_key": "0" })
    );
    let (_, told) = list(&["--limit", "1"]).await;
    assert_eq!((ids(&told), &told["matching"]), (vec![&*one], &json!(3)));

    let (code, text, _) =
        countersign(&[&["quarantine", "list", "--limit", "2"], &at[..]].concat()).await;
    assert_eq!(code, Some(0));
    assert!(text.contains(&one) && text.contains("version 2 is not known here"), "{text}");
    assert!(text.ends_with("first 2 of 3; --all, or --limit N\n"), "{text}");
    holds(&vhost, QUARANTINE, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_to_where_it_came_from_and_leaves_what_it_cannot_replay() {
    let vhost = vhost().await;
    let at = ["--amqp-url", vhost.url()];
    let one = put_aside(&vhost, CONFIRMS, "logistics", "the database refuses it", "{1}").await;
    put_aside(&vhost, "countersign.check.due", "orders", "the database refuses it", "{2}").await;
    let stays = put_aside(&vhost, "elsewhere", "orders", "the database refuses it", "{3}").await;
    let other = put_aside(&vhost, CONFIRMS, "logistics", "version 2", "{4}").await;
    let replay = [&["quarantine", "replay", "--reason", "database"], &at[..]].concat();

    let (code, told) = json(&[&replay[..], &["--dry-run"]].concat()).await;
    assert_eq!((code, &told["matching"]), (Some(0), &json!(3)));
    holds(&vhost, CONFIRMS, 0).await;

    let (code, told) = json(&replay).await;
    assert_eq!((code, &told["done"]), (Some(1), &json!(2)), "{told}");
    assert_eq!(told["not_done"][0][0], json!(stays));
    holds(&vhost, QUARANTINE, 2).await;
    holds(&vhost, CONFIRMS, 1).await;
    let replayed = first(&vhost, CONFIRMS).await;
    assert_eq!((&*replayed.body, replayed.properties.message_id), (&b"{1}"[..], Some(one)));
    assert_eq!(replayed.properties.headers.iter().count(), 0);
    assert_eq!(vhost.take("countersign.check.due", 10).await[0].body, b"{2}");

    let (code, told) = json(&[&["quarantine", "list"], &at[..]].concat()).await;
    assert_eq!((code, ids(&told)), (Some(0), vec![&*stays, &other]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_chosen_is_dropped_and_a_script_has_to_say_yes() {
    let vhost = vhost().await;
    let at = ["--amqp-url", vhost.url()];
    let one = put_aside(&vhost, CONFIRMS, "load-test", "no idea", "{1}").await;
    let two = put_aside(&vhost, CONFIRMS, "logistics", "no idea", "{2}").await;
    let drop = [&["quarantine", "drop"], &at[..]].concat();

    let (code, _, why) = countersign(&drop).await;
    assert_eq!(code, Some(64));
    assert!(why.contains("say which ones"), "{why}");
    let chosen = [&drop[..], &["--app-id", "load-test"]].concat();
    let (code, _, why) = countersign(&chosen).await;
    assert_eq!(code, Some(64), "nobody is at the terminal");
    assert!(why.contains(&one) && why.contains("--yes"), "{why}");
    let (code, text, _) = countersign(&[&chosen[..], &["--dry-run"]].concat()).await;
    assert_eq!(code, Some(0));
    assert!(text.contains(&one) && text.ends_with("1 would be dropped\n"), "{text}");
    holds(&vhost, QUARANTINE, 2).await;

    let (code, told) = json(&[&chosen[..], &["--yes"]].concat()).await;
    assert_eq!((code, &told["done"]), (Some(0), &json!(1)));
    let (_, told) = json(&[&["quarantine", "list"], &at[..]].concat()).await;
    assert_eq!(ids(&told), [&*two]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_loses_nothing() {
    const ROUND_TRIP: Duration = Duration::from_millis(20);
    const A_LONG_ROUND_TRIP: Duration = Duration::from_millis(500);
    let vhost = vhost().await;
    let all = filled(&vhost, 1_500).await;
    // However fast the machine is, a replay through this proxy takes a round trip for each hundred.
    let broker = address_of(vhost.url());
    let proxy = Proxy::start(broker).await.unwrap();
    proxy.conduct(Conduct::Forward { after: ROUND_TRIP });
    let url = vhost.url().replace(&broker.port().to_string(), &proxy.address().port().to_string());
    let mut replaying = program(&["quarantine", "replay", "--all", "--amqp-url", &url])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // What it has read from quarantine, it publishes on a connection of its own.
    eventually("it begins to publish", SOON, async || proxy.carried() == 2).await;
    proxy.conduct(Conduct::Forward { after: A_LONG_ROUND_TRIP });
    eventually("something is replayed", SOON, async || {
        vhost.depth(CONFIRMS).await.is_some_and(|depth| depth.ready > 0)
    })
    .await;
    assert_eq!(replaying.try_wait().unwrap(), None, "it is killed in the midst of its work");
    replaying.kill().await.unwrap();
    let connection = connect(&vhost, Topology::default()).await;
    eventually("each of them is in one of the queues", SOON, async || {
        let mut found = BTreeSet::new();
        for queue in [QUARANTINE, CONFIRMS] {
            let mut browser = Browser::open(&connection, queue).await.unwrap();
            while let Some(browsed) = browser.next().await.unwrap() {
                found.extend(browsed.delivery.properties.message_id);
            }
            browser.close().await.unwrap();
        }
        if found == all { Ok(()) } else { Err((found.len(), all.len())) }
    })
    .await;
}

/// Where the broker of this URL listens.
fn address_of(url: &str) -> SocketAddr {
    let (_, host) = url.rsplit_once('@').unwrap();
    host.split('/').next().unwrap().parse().unwrap()
}

/// So many in quarantine; their ids.
async fn filled(vhost: &Vhost, count: usize) -> BTreeSet<String> {
    let connection = connect(vhost, Topology::default()).await;
    let publisher = Publisher::start(&connection, PublisherSettings::default());
    let ids: BTreeSet<String> = (0..count).map(|_| MessageId::generate().to_string()).collect();
    let pending: Vec<_> = ids
        .iter()
        .map(|id| {
            let headers = Headers::new().with_text(header::SOURCE, CONFIRMS);
            let message_id = Some(id.clone());
            let properties = Properties { message_id, headers, ..Properties::default() };
            let (exchange, key) = (QUARANTINE.to_owned(), String::new());
            publisher.publish(Outgoing { exchange, key, properties, body: "{}".into() }).unwrap()
        })
        .collect();
    for pending in pending {
        assert_eq!(pending.await, PublishOutcome::Routed);
    }
    connection.close().await;
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_or_knows_no_quarantine_says_what_to_do() {
    let at = ["--amqp-url", "amqp://guest:s3cret@127.0.0.1:1"];
    let (code, _, why) = countersign(&[&["quarantine", "list"], &at[..]].concat()).await;
    assert_eq!(code, Some(1));
    assert!(why.contains("cannot be reached") && !why.contains("s3cret"), "{why}");
    let vhost = countersign_testbed::vhost().await;
    let at = ["--amqp-url", vhost.url()];
    let (code, _, why) = countersign(&[&["quarantine", "list"], &at[..]].concat()).await;
    assert_eq!(code, Some(1));
    assert!(why.contains("the callback service makes it"), "{why}");
}

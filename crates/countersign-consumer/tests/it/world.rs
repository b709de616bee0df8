//! A broker's vhost, a database and consumers on them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_consumer::{Consumer as Setup, ConsumerSettings, ExchangeKind, Running};
use countersign_protocol::MessageId;
use countersign_testbed::{Database, Depth, Vhost, eventually};
pub(crate) use countersign_testbed::{SOON, id_at, in_time};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio_util::sync::CancellationToken;

use crate::effects::Effects;

pub(crate) const QUEUE: &str = "work";
pub(crate) const DEAD: &str = "work.dead";
pub(crate) const EXCHANGE: &str = "jobs";
pub(crate) const KEY: &str = "job.placed";
/// Gets a copy of every confirm. Shard 0 itself has a single active consumer, and such a queue
/// cannot be looked into.
pub(crate) const CONFIRMS: &str = "seen";
pub(crate) const CONSUMER: &str = "worker";

/// Where a consumer lives.
pub(crate) struct World {
    pub(crate) vhost: Vhost,
    pub(crate) pool: PgPool,
    _database: Option<Database>,
}

/// A consumer under test. Dropped, it stops at once.
pub(crate) struct Consumer {
    pub(crate) effects: Effects,
    shutdown: CancellationToken,
    running: Running,
}

/// A confirm's entry, as it lies in the broker.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) consumer: String,
    pub(crate) json: Value,
}

impl Entry {
    pub(crate) fn id(&self) -> &str {
        self.json["id"].as_str().unwrap()
    }

    pub(crate) fn outcome(&self) -> &str {
        self.json["outcome"].as_str().unwrap()
    }

    pub(crate) fn reason(&self) -> &str {
        self.json["reason"].as_str().unwrap()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let database = countersign_testbed::database().await;
        let pool = pool(database.url());
        Self::on(countersign_testbed::vhost().await, pool, Some(database)).await
    }

    pub(crate) async fn on(vhost: Vhost, pool: PgPool, database: Option<Database>) -> Self {
        // Shown for a test that fails; the second test finds it set.
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter("info,countersign=debug,sqlx=warn,lapin=warn")
            .try_init();
        sqlx::query("CREATE TABLE effects (message_id uuid NOT NULL)")
            .execute(&pool)
            .await
            .unwrap();
        Self { vhost, pool, _database: database }
    }

    pub(crate) async fn consumer(&self) -> Consumer {
        self.consumer_with(settings()).await
    }

    pub(crate) async fn consumer_with(&self, settings: ConsumerSettings) -> Consumer {
        let (effects, shutdown) = (Effects::default(), CancellationToken::new());
        let address = self.vhost.url().parse().unwrap();
        let consumer = Setup::new(address, settings).with_inbox(self.pool.clone());
        let started = consumer.handler(effects.clone()).start(shutdown.clone());
        let running = in_time("the consumer", started).await.unwrap();
        self.see_confirms().await;
        Consumer { effects, shutdown, running }
    }

    pub(crate) async fn batch_consumer(&self, settings: ConsumerSettings) -> Consumer {
        let (effects, shutdown) = (Effects::default(), CancellationToken::new());
        let address = self.vhost.url().parse().unwrap();
        let consumer = Setup::new(address, settings).with_inbox(self.pool.clone());
        let started = consumer.batch_handler(effects.clone()).start(shutdown.clone());
        let running = in_time("the consumer", started).await.unwrap();
        self.see_confirms().await;
        Consumer { effects, shutdown, running }
    }

    pub(crate) async fn see_confirms(&self) {
        self.vhost.declare_queue(CONFIRMS, json!({ "x-overflow": "reject-publish" })).await;
        self.vhost.bind("countersign.confirm", CONFIRMS, "0").await;
    }

    /// Publishes a message as an upstream would.
    pub(crate) async fn publish(&self, id: MessageId, body: &str) {
        let properties = json!({
            "message_id": id.to_string(),
            "app_id": "orders",
            "delivery_mode": 2,
            "headers": { "countersign-attempt": 2, "countersign-published-at-ms": 1_700_000_000_123_i64 },
        });
        assert!(self.vhost.publish(EXCHANGE, KEY, properties, body.as_bytes()).await, "routed");
    }

    pub(crate) async fn publish_new(&self, body: &str) -> MessageId {
        let id = MessageId::generate();
        self.publish(id, body).await;
        id
    }

    pub(crate) async fn publish_many(&self, count: usize, body: &str) -> Vec<MessageId> {
        let ids: Vec<_> = (0..count).map(|_| MessageId::generate()).collect();
        futures_util::future::join_all(ids.iter().map(|id| self.publish(*id, body))).await;
        ids
    }

    /// How often each message took effect.
    pub(crate) async fn effects(&self) -> BTreeMap<MessageId, i64> {
        let rows: Vec<(uuid::Uuid, i64)> =
            sqlx::query_as("SELECT message_id, count(*) FROM effects GROUP BY message_id")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        rows.into_iter().map(|(id, count)| (id.try_into().unwrap(), count)).collect()
    }

    /// How often each message came again after it had taken effect, as the inbox counts it.
    pub(crate) async fn duplicates(&self) -> BTreeMap<MessageId, i32> {
        let rows: Vec<(uuid::Uuid, i32)> =
            sqlx::query_as("SELECT message_id, duplicates FROM countersign.inbox")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        rows.into_iter().map(|(id, count)| (id.try_into().unwrap(), count)).collect()
    }

    /// Every entry that was confirmed so far, in order.
    pub(crate) async fn confirms(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for message in self.vhost.peek(CONFIRMS, 100_000).await {
            if message.body.is_empty() {
                // It only made the queue full.
                continue;
            }
            let confirm = message.json();
            assert_eq!(confirm["v"], 1);
            let consumer = confirm["consumer"].as_str().unwrap().to_owned();
            for json in confirm["confirms"].as_array().unwrap().clone() {
                entries.push(Entry { consumer: consumer.clone(), json });
            }
        }
        entries
    }

    pub(crate) async fn confirms_of(&self, id: MessageId) -> Vec<Entry> {
        let mut entries = self.confirms().await;
        entries.retain(|entry| entry.id() == id.to_string());
        entries
    }

    /// Waits until the message has been confirmed with these outcomes, in this order.
    pub(crate) async fn confirmed(&self, id: MessageId, outcomes: &[&str]) -> Vec<Entry> {
        eventually(&format!("{id} is confirmed as {outcomes:?}"), SOON, async || {
            let entries = self.confirms_of(id).await;
            let seen: Vec<_> = entries.iter().map(|entry| entry.outcome().to_owned()).collect();
            if seen == outcomes { Ok(entries) } else { Err(seen) }
        })
        .await
    }

    /// Waits until so many messages are confirmed as processed.
    pub(crate) async fn all_processed(&self, count: usize) {
        eventually(&format!("{count} messages are confirmed"), SOON, async || {
            let entries = self.confirms().await;
            let processed = entries.iter().filter(|entry| entry.outcome() == "processed");
            let ids: BTreeSet<_> = processed.map(Entry::id).collect();
            if ids.len() == count { Ok(()) } else { Err(ids.len()) }
        })
        .await;
    }

    pub(crate) async fn depth(&self, queue: &str) -> Depth {
        self.vhost.depth(queue).await.unwrap_or_else(|| panic!("there is no queue {queue}"))
    }

    /// Waits until everything in the queue has been acked.
    pub(crate) async fn drained(&self, queue: &str) {
        self.holds(queue, Depth::default()).await;
    }

    pub(crate) async fn holds(&self, queue: &str, expected: Depth) {
        eventually(&format!("{queue} holds {expected:?}"), SOON, async || {
            let depth = self.depth(queue).await;
            if depth == expected { Ok(()) } else { Err(depth) }
        })
        .await;
    }

    /// Closes every connection whose given name contains `part`, and waits until others have taken
    /// their place.
    pub(crate) async fn cut(&self, part: &str) {
        let before =
            eventually(&format!("there are connections {part:?} to cut"), SOON, async || {
                let connections = self.connections(part).await;
                if connections.is_empty() { Err("none") } else { Ok(connections) }
            })
            .await;
        self.vhost.close_connections(part).await;
        eventually(&format!("connections {part:?} are built anew"), SOON, async || {
            let now = self.connections(part).await;
            let anew = now.len() >= before.len() && now.is_disjoint(&before);
            if anew { Ok(()) } else { Err((before.clone(), now)) }
        })
        .await;
    }

    /// The connections whose given names contain `part`, by the names that the broker gives them:
    /// never the same twice.
    async fn connections(&self, part: &str) -> BTreeSet<String> {
        let path = ["vhosts", self.vhost.name(), "connections"];
        let connections = self.vhost.management().get(&path).await.unwrap().unwrap();
        let given = |connection: &&Value| {
            connection["user_provided_name"].as_str().is_some_and(|name| name.contains(part))
        };
        let name = |connection: &Value| connection["name"].as_str().unwrap().to_owned();
        connections.as_array().unwrap().iter().filter(given).map(name).collect()
    }

    /// From now on the broker refuses confirms, while nothing else is disturbed.
    pub(crate) async fn refuse_confirms(&self) {
        self.limit_confirms(1).await;
        eventually("the broker refuses confirms", SOON, async || {
            self.vhost.refuses(CONFIRMS).await
        })
        .await;
    }

    pub(crate) async fn take_confirms_again(&self) {
        // Not by clearing the policy: without a limit, RabbitMQ 3.10.8 never tells the channels that
        // it has refused that they may publish again.
        self.limit_confirms(1_000_000).await;
    }

    async fn limit_confirms(&self, messages: u64) {
        let limit = json!({ "max-length": messages });
        self.vhost.set_policy("full", &format!("^{CONFIRMS}$"), limit).await;
    }
}

impl Consumer {
    /// Asks it to stop.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Asks it to stop, and waits until it is drained.
    pub(crate) async fn stop(self) {
        self.shut_down();
        in_time("the drain", self.running.drained()).await;
    }
}

/// The settings of these tests: delays short, nothing else changed.
pub(crate) fn settings() -> ConsumerSettings {
    named(CONSUMER, QUEUE)
}

pub(crate) fn named(consumer: &str, queue: &str) -> ConsumerSettings {
    let mut settings = ConsumerSettings::new(consumer.parse().unwrap(), queue).bound_to(
        EXCHANGE,
        ExchangeKind::Topic,
        KEY,
    );
    settings.retry_delays = vec![Duration::from_millis(300), Duration::from_millis(600)];
    settings
}

pub(crate) fn pool(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(25)
        // Opening 20 connections at once costs a busy machine seconds in a debug build.
        .acquire_timeout(Duration::from_secs(20))
        .connect_lazy(url)
        .unwrap()
}

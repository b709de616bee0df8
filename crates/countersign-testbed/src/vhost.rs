//! A vhost of the test's own on a broker, and a look into it from outside.

use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_management::{Management, Method};
use serde_json::{Map, Value, json};

use crate::broker::BrokerAddress;
use crate::queues::{Depth, Queue, Queues};
use crate::sweeper;

/// A vhost; the sweeper deletes it some time after the value is dropped.
///
/// Its methods go through the management API, not through our own client: a test that looks with
/// the code it tests sees nothing. They are for tests and panic when the broker does not answer or
/// refuses.
#[derive(Debug)]
pub struct Vhost {
    name: String,
    url: String,
    queues: Queues,
    management: Management,
    management_url: String,
}

/// A message as it lies in a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Peeked {
    /// The exchange that the message came through.
    pub exchange: String,
    /// The message's routing key.
    pub key: String,
    /// Whether the broker has delivered the message before.
    pub redelivered: bool,
    /// The message's properties, by their AMQP names, `headers` aside.
    pub properties: Map<String, Value>,
    /// The message's headers.
    pub headers: Map<String, Value>,
    /// The message's body.
    pub body: Vec<u8>,
}

impl Peeked {
    /// The message's `message_id`, if it has one.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.properties.get("message_id")?.as_str()
    }

    /// The message's body as JSON.
    ///
    /// # Panics
    /// If the body is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// In RabbitMQ 3.10.8 a queue's process ends when a tick comes before the new queue has its
/// settings. The testbed's short ticks make that likely on a busy machine; declaring the queue
/// again works.
const DECLARES: usize = 5;

impl Vhost {
    /// How old the figures of [`Self::depth`], [`Self::connections`] and [`Self::consumers`] may
    /// be, on a [`Broker`](crate::Broker) with default settings. The broker counts every 0.5 s and
    /// copies the counts every second; the rest is for a busy machine.
    pub const FIGURES_AGE: Duration = Duration::from_millis(2_000);

    /// Makes a vhost with a new name.
    ///
    /// # Errors
    /// If the broker does not answer or refuses.
    pub async fn create(broker: &BrokerAddress) -> Result<Self> {
        let name = format!("test-{:012x}", fastrand::u64(..1 << 48));
        let vhost = Self {
            url: broker.url(&name),
            queues: Queues::new(broker, &name),
            management: broker.management(),
            management_url: broker.management_url(),
            name,
        };
        vhost.make(broker).await?;
        Ok(vhost)
    }

    /// Makes the vhost anew, empty, on a broker that lost it.
    ///
    /// # Errors
    /// If the broker does not answer or refuses.
    pub async fn make(&self, broker: &BrokerAddress) -> Result<()> {
        self.management.call(Method::PUT, &["vhosts", &self.name], Some(json!({}))).await?;
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        self.management
            .call(Method::PUT, &["permissions", &self.name, &broker.user], Some(all))
            .await?;
        Ok(())
    }

    /// The vhost's AMQP URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The vhost's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The management API, for calls without a method here.
    #[must_use]
    pub fn management(&self) -> &Management {
        &self.management
    }

    /// The management API's address, with user and password.
    #[must_use]
    pub fn management_url(&self) -> &str {
        &self.management_url
    }

    /// How many messages a queue held at some moment of the last [`Self::FIGURES_AGE`], ready or with
    /// a consumer. `None` if there is no such queue.
    pub async fn depth(&self, queue: &str) -> Option<Depth> {
        self.answered(self.queues.depth(queue).await)
    }

    /// The vhost's queues, each with its messages at some moment of the last [`Self::FIGURES_AGE`].
    pub async fn depths(&self) -> Vec<Queue> {
        self.answered(self.queues.all().await)
    }

    /// How many messages of a queue consumers have acked in all its life, up to some moment of the
    /// last [`Self::FIGURES_AGE`]. The figure only grows, so an old one is never too high.
    pub async fn acked(&self, queue: &str) -> u64 {
        let queue = self.call(Method::GET, &["queues", &self.name, queue], None).await;
        let acked = queue.as_ref().and_then(|queue| queue["message_stats"]["ack"].as_u64());
        acked.unwrap_or(0)
    }

    /// The names of its queues.
    pub async fn queues(&self) -> Vec<String> {
        self.depths().await.into_iter().map(|queue| queue.name).collect()
    }

    /// Destroys the ready messages of a queue. Messages that a consumer holds stay.
    ///
    /// # Panics
    /// If there is no such queue.
    pub async fn purge(&self, queue: &str) {
        self.answered(self.queues.purge(queue).await);
    }

    /// Deletes a queue with its messages.
    ///
    /// # Panics
    /// If there is no such queue.
    pub async fn delete_queue(&self, queue: &str) {
        self.must(Method::DELETE, &["queues", &self.name, queue], None).await;
    }

    /// Declares a durable quorum queue with these further arguments.
    pub async fn declare_queue(&self, queue: &str, arguments: Value) {
        let mut arguments = arguments;
        arguments["x-queue-type"] = json!("quorum");
        let body = json!({ "durable": true, "arguments": arguments });
        for tries_left in (0..DECLARES).rev() {
            let path = ["queues", &self.name, queue];
            match self.management.call(Method::PUT, &path, Some(body.clone())).await {
                Ok(_) => return,
                Err(error) if tries_left > 0 && format!("{error:#}").contains("handle_tick") => {}
                Err(error) => panic!("queue {queue} in vhost {}: {error:#}", self.name),
            }
        }
    }

    /// Binds a queue to an exchange.
    pub async fn bind(&self, exchange: &str, queue: &str, key: &str) {
        let body = json!({ "routing_key": key, "arguments": {} });
        self.must(Method::POST, &["bindings", &self.name, "e", exchange, "q", queue], Some(body))
            .await;
    }

    /// Takes a binding away.
    ///
    /// # Panics
    /// If there is no such binding.
    pub async fn unbind(&self, exchange: &str, queue: &str, key: &str) {
        let path = ["bindings", &self.name, "e", exchange, "q", queue, key];
        self.must(Method::DELETE, &path, None).await;
    }

    /// Up to `count` messages from the head of a queue; they stay there, marked as redelivered.
    ///
    /// # Panics
    /// If there is no such queue.
    pub async fn peek(&self, queue: &str, count: u64) -> Vec<Peeked> {
        self.take_or_peek(queue, count, "ack_requeue_true").await
    }

    /// Takes up to `count` messages out of a queue.
    ///
    /// # Panics
    /// If there is no such queue.
    pub async fn take(&self, queue: &str, count: u64) -> Vec<Peeked> {
        self.take_or_peek(queue, count, "ack_requeue_false").await
    }

    /// Publishes whatever it is given; says whether it was routed. `properties` may hold `headers`.
    /// The default exchange is `""`.
    ///
    /// # Panics
    /// If there is no such exchange, or the broker refuses the message.
    pub async fn publish(&self, exchange: &str, key: &str, properties: Value, body: &[u8]) -> bool {
        let exchange = if exchange.is_empty() { "amq.default" } else { exchange };
        let message = json!({
            "properties": properties,
            "routing_key": key,
            "payload": BASE64_STANDARD.encode(body),
            "payload_encoding": "base64",
        });
        let answer = self
            .must(Method::POST, &["exchanges", &self.name, exchange, "publish"], Some(message))
            .await;
        answer["routed"] == json!(true)
    }

    /// Whether a queue refuses what is published to it because it is full. If not, it holds one more
    /// message now, with an empty body.
    pub async fn refuses(&self, queue: &str) -> bool {
        let message = json!({
            "properties": { "delivery_mode": 2 },
            "routing_key": queue,
            "payload": "",
            "payload_encoding": "string",
        });
        let path = ["exchanges", &self.name, "amq.default", "publish"];
        match self.management.call(Method::POST, &path, Some(message)).await {
            Ok(_) => false,
            Err(error) if format!("{error:#}").contains("Check queue limits") => true,
            Err(error) => panic!("vhost {}: {error:#}", self.name),
        }
    }

    /// Sets an operator's policy for all queues whose names match the pattern.
    pub async fn set_policy(&self, name: &str, pattern: &str, definition: Value) {
        let body = json!({ "pattern": pattern, "apply-to": "queues", "definition": definition, "priority": 1 });
        self.must(Method::PUT, &["policies", &self.name, name], Some(body)).await;
    }

    /// Removes a policy.
    ///
    /// # Panics
    /// If there is no such policy.
    pub async fn clear_policy(&self, name: &str) {
        self.must(Method::DELETE, &["policies", &self.name, name], None).await;
    }

    /// The connections to it, by the names their clients gave them (or the broker's, if none).
    pub async fn connections(&self) -> Vec<String> {
        let connections =
            self.call(Method::GET, &["vhosts", &self.name, "connections"], None).await;
        let name = |connection: &Value| {
            let given = connection.get("user_provided_name").or_else(|| connection.get("name"))?;
            given.as_str().map(str::to_owned)
        };
        connections
            .as_ref()
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(name)
            .collect()
    }

    /// Has the broker close the connections whose given names contain `part` (`""`: all of them);
    /// returns how many.
    pub async fn close_connections(&self, part: &str) -> usize {
        let connections =
            self.call(Method::GET, &["vhosts", &self.name, "connections"], None).await;
        let mut closed = 0;
        for connection in connections.as_ref().and_then(Value::as_array).into_iter().flatten() {
            let given = connection["user_provided_name"].as_str().unwrap_or_default();
            let Some(name) = connection["name"].as_str().filter(|_| given.contains(part)) else {
                continue;
            };
            if self.call(Method::DELETE, &["connections", name], None).await.is_some() {
                closed += 1;
            }
        }
        closed
    }

    /// How many consumers a queue has.
    pub async fn consumers(&self, queue: &str) -> usize {
        let consumers = self.call(Method::GET, &["consumers", &self.name], None).await;
        let of_queue = |consumer: &&Value| consumer["queue"]["name"] == json!(queue);
        consumers.as_ref().and_then(Value::as_array).into_iter().flatten().filter(of_queue).count()
    }

    async fn take_or_peek(&self, queue: &str, count: u64, mode: &str) -> Vec<Peeked> {
        let body = json!({ "count": count, "ackmode": mode, "encoding": "base64" });
        let messages =
            self.must(Method::POST, &["queues", &self.name, queue, "get"], Some(body)).await;
        messages.as_array().into_iter().flatten().map(peeked).collect()
    }

    async fn call(&self, method: Method, path: &[&str], body: Option<Value>) -> Option<Value> {
        self.answered(self.management.call(method, path, body).await.map_err(anyhow::Error::new))
    }

    fn answered<T>(&self, answer: Result<T>) -> T {
        answer.unwrap_or_else(|error| panic!("vhost {}: {error:#}", self.name))
    }

    async fn must(&self, method: Method, path: &[&str], body: Option<Value>) -> Value {
        let what = format!("{method} {}", path.join("/"));
        self.call(method, path, body)
            .await
            .unwrap_or_else(|| panic!("{what}: there is no such thing"))
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let (management, name) = (self.management.clone(), self.name.clone());
        sweeper::later(async move {
            management
                .call(Method::DELETE, &["vhosts", &name], None)
                .await
                .map(drop)
                .with_context(|| format!("vhost {name} could not be deleted"))
        });
    }
}

fn peeked(message: &Value) -> Peeked {
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    let mut properties = message["properties"].as_object().cloned().unwrap_or_default();
    let headers = match properties.remove("headers") {
        Some(Value::Object(headers)) => headers,
        _ => Map::new(),
    };
    Peeked {
        exchange: text("exchange"),
        key: text("routing_key"),
        redelivered: message["redelivered"] == json!(true),
        properties,
        headers,
        body: BASE64_STANDARD
            .decode(text("payload"))
            .expect("the management API encodes in base64 as asked"),
    }
}

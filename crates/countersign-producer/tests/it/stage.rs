//! An upstream with one table, `thing`, and a queue that its messages go to.

use std::time::Duration;

use countersign_amqp::Connection;
use countersign_producer::{
    DatabaseId, Enlisted, Found, Message, MessageId, MessageSource, ProducerSettings, Publisher,
    SourceError, prepare, upstream,
};
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_protocol::grpc::{RequestResendRequest, RequestResendResponse};
use countersign_protocol::topology::ExchangeKind;
use countersign_protocol::{Tier, Topology};
use countersign_testbed::{Database, Peeked, SOON, Vhost, database, eventually, vhost};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub(crate) const WAITING_CHECKS: &str = "countersign.check.wait.5m";
pub(crate) const QUEUE: &str = "things";

pub(crate) struct Stage {
    pub(crate) publisher: Publisher,
    pub(crate) pool: PgPool,
    pub(crate) vhost: Vhost,
    pub(crate) database: Database,
    pub(crate) identity: DatabaseId,
    _callback: Connection,
    _partitions: tokio_util::sync::DropGuard,
}

/// Settings with which ids may be enlisted and fenced at once, so that no test has to wait for a
/// minute.
pub(crate) fn settings() -> ProducerSettings {
    let tier = "5m".parse().unwrap();
    let mut settings =
        ProducerSettings::new("tested".parse().unwrap(), tier, vec!["thinker".parse().unwrap()])
            .with_exchange("things", ExchangeKind::Topic);
    // A busy machine is no reason to fail.
    settings.arm_timeout = Duration::from_secs(20);
    settings.longest_transaction = Duration::ZERO;
    settings.armed_max_age = Duration::from_secs(3_600);
    settings
}

impl Stage {
    pub(crate) async fn new(settings: ProducerSettings) -> Self {
        let vhost = Box::pin(vhost()).await;
        let address = vhost.url().to_owned();
        Self::of(vhost, &address, settings).await
    }

    /// In this vhost; the publisher connects by this address.
    pub(crate) async fn of(vhost: Vhost, address: &str, mut settings: ProducerSettings) -> Self {
        // On the heap: it is larger than a test's stack should hold.
        let database = Box::pin(database()).await;
        let callback = Connection::start(
            vhost.url().parse().unwrap(),
            "callback",
            Topology::callback(&["5m".parse::<Tier>().unwrap()], 1),
        );
        callback.ready().await;
        let pool = database.pool().await.unwrap();
        let shutdown = CancellationToken::new();
        let identity = prepare(&pool, settings.retention, shutdown.clone()).await.unwrap();
        settings.database = Some(identity);
        sqlx::raw_sql(
            "CREATE TABLE thing (message_id uuid PRIMARY KEY, name text NOT NULL CHECK (name <> ''))",
        )
        .execute(&pool)
        .await
        .unwrap();
        let publisher = Publisher::start(address.parse().unwrap(), settings).unwrap();
        publisher.ready().await;
        vhost.declare_queue(QUEUE, serde_json::json!({})).await;
        vhost.bind("things", QUEUE, "#").await;
        let partitions = shutdown.drop_guard();
        Self {
            publisher,
            pool,
            vhost,
            database,
            identity,
            _callback: callback,
            _partitions: partitions,
        }
    }

    /// Enlists a message and inserts its thing.
    pub(crate) async fn begin(&self, message: Message, name: &str) -> Enlisted {
        let id = message.id();
        let mut tx = self.publisher.arm(message).unwrap().begin(&self.pool).await.unwrap();
        insert(&mut tx, id, name).await.unwrap();
        tx
    }

    /// Commits a thing and publishes its message.
    pub(crate) async fn place(&self, name: &str) -> MessageId {
        let message = thing(name);
        let id = message.id();
        self.begin(message, name).await.commit().await.unwrap().publish();
        id
    }

    pub(crate) async fn is_committed(&self, id: MessageId) -> bool {
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM thing WHERE message_id = $1)")
            .bind(id.uuid())
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    pub(crate) async fn state(&self, id: MessageId) -> Option<String> {
        sqlx::query_scalar("SELECT state FROM countersign.enlisted WHERE message_id = $1")
            .bind(id.uuid())
            .fetch_optional(&self.pool)
            .await
            .unwrap()
    }

    /// Takes a message of this id out of the queue.
    pub(crate) async fn published(&self, id: MessageId) -> Peeked {
        let id = id.to_string();
        eventually(&format!("message {id} is in the queue"), SOON, async || {
            let taken = self.vhost.take(QUEUE, 1_000).await;
            taken.into_iter().find(|message| message.message_id() == Some(&id))
        })
        .await
    }

    /// How often each id stands in the waiting checks.
    pub(crate) async fn checks_of(&self, id: MessageId) -> usize {
        let id = id.to_string();
        let checks = self.vhost.peek(WAITING_CHECKS, 1_000).await;
        let entries = checks
            .iter()
            .flat_map(|check| check.json()["messages"].as_array().cloned().unwrap_or_default());
        entries.filter(|entry| entry["id"] == id.as_str()).count()
    }

    pub(crate) async fn ask(&self, id: MessageId, attempt: u32) -> RequestResendResponse {
        self.try_ask(Things, &id.to_string(), attempt).await.unwrap()
    }

    /// Asks a new service, which remembers nothing.
    pub(crate) async fn try_ask(
        &self,
        source: impl MessageSource,
        id: &str,
        attempt: u32,
    ) -> Result<RequestResendResponse, Status> {
        let service = upstream(self.publisher.clone(), self.pool.clone(), source);
        let request = self.request(id, attempt);
        UpstreamClient::new(service).request_resend(request).await.map(tonic::Response::into_inner)
    }

    /// A request that names this upstream and its database.
    pub(crate) fn request(&self, id: &str, attempt: u32) -> RequestResendRequest {
        RequestResendRequest {
            message_id: id.to_owned(),
            attempt,
            missing_consumers: Vec::new(),
            reason: "tested".to_owned(),
            upstream: "tested".to_owned(),
            database: self.identity.to_string(),
        }
    }
}

pub(crate) fn outcome(response: &RequestResendResponse) -> Outcome {
    response.outcome()
}

pub(crate) fn thing(name: &str) -> Message {
    Message::json("things", "thing.made", "thing.made", &name).unwrap()
}

pub(crate) async fn insert(
    tx: &mut PgConnection,
    id: MessageId,
    name: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO thing VALUES ($1, $2)")
        .bind(id.uuid())
        .bind(name)
        .execute(tx)
        .await
        .map(drop)
}

/// Finds things; a thing named "cancelled" is no longer wanted.
pub(crate) struct Things;

impl MessageSource for Things {
    async fn find(&self, tx: &mut PgConnection, id: MessageId) -> Result<Found, SourceError> {
        let name: Option<String> =
            sqlx::query_scalar("SELECT name FROM thing WHERE message_id = $1")
                .bind(id.uuid())
                .fetch_optional(tx)
                .await?;
        Ok(match name.as_deref() {
            None => Found::NotFound,
            Some("cancelled") => Found::Withdrawn { reason: "it was cancelled".to_owned() },
            Some(name) => Found::Message(thing(name).with_id(id)),
        })
    }
}

//! One callback service, or several, with a vhost and a database of their own.

use countersign_amqp::{Connection, Consumer, Subscription};
use countersign_callback::{Config, SETTINGS, Service};
use countersign_protocol::grpc::callback_client::CallbackClient;
use countersign_protocol::grpc::callback_server::{Callback, CallbackServer};
use countersign_protocol::grpc::{
    FindUnconfirmedRequest, FindUnconfirmedResponse, GetMessageRequest, GetMessageResponse,
    ListUpstreamsRequest, find_unconfirmed_request, list_upstreams_response,
};
use countersign_protocol::{MessageId, Topology};
use countersign_retry::Pulse;
use countersign_runtime::Settings;
use countersign_testbed::{Database, SOON, Vhost, counts, eventually};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::upstream::Upstream;

/// Where the service puts what it cannot read or store.
pub(crate) const QUARANTINE: &str = "countersign.quarantine";

/// What a test plays on.
pub(crate) struct Stage {
    pub(crate) vhost: Vhost,
    pub(crate) database: Database,
    pub(crate) pool: PgPool,
    settings: Vec<(String, String)>,
    replicas: Vec<Replica>,
}

/// A setting in the short form `max-resends=2`, as a process has it.
fn variable(setting: &str) -> (String, String) {
    let (name, text) = setting.split_once('=').unwrap();
    (format!("COUNTERSIGN_{}", name.to_ascii_uppercase().replace('-', "_")), text.to_owned())
}

pub(crate) struct Replica {
    service: Service,
    shutdown: CancellationToken,
}

/// A row of `overdue`, as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) upstream: String,
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) resends: i32,
    pub(crate) calls_not_made: i32,
}

/// The database that sweeps say their messages are committed in.
pub(crate) const DATABASE: &str = "6f9619ff-8b86-4011-b42d-00c04fc964ff";

impl Stage {
    /// A stage without a service yet; `settings` are in the short form `max-resends=2`.
    pub(crate) async fn empty(settings: &[&str]) -> Self {
        Self::with_database(countersign_testbed::database().await, settings).await
    }

    pub(crate) async fn with_database(database: Database, settings: &[&str]) -> Self {
        let vhost = countersign_testbed::vhost().await;
        let pool = database.pool().await.unwrap();
        let mut stage = Self { settings: Vec::new(), vhost, database, pool, replicas: Vec::new() };
        settings.iter().for_each(|setting| stage.set(setting));
        stage
    }

    /// From the next start on.
    pub(crate) fn set(&mut self, setting: &str) {
        self.settings.push(variable(setting));
    }

    /// A service whose upstream `orders` is the given one.
    pub(crate) async fn new(upstream: &Upstream, settings: &[&str]) -> Self {
        let mut stage = Self::empty(settings).await;
        stage.upstream(upstream);
        stage.start().await;
        stage
    }

    pub(crate) fn upstream(&mut self, upstream: &Upstream) {
        self.settings
            .push(("COUNTERSIGN_UPSTREAMS".to_owned(), format!("orders={}", upstream.url())));
    }

    /// Takes the last setting back, if it is this one.
    pub(crate) fn unset(&mut self, setting: &str) {
        let unset = variable(setting);
        self.settings.pop_if(|last| *last == unset);
    }

    /// Returns when a service has made its tables.
    pub(crate) async fn wait_for_tables(&self) {
        eventually("the tables are made", SOON, async || {
            let sql = "SELECT to_regclass('overdue_event') IS NOT NULL";
            sqlx::query_scalar::<_, bool>(sql).fetch_one(&self.pool).await.unwrap()
        })
        .await;
    }

    /// Begins anew, if there are tables already.
    pub(crate) async fn clear_tables(&self) {
        // Fails the first time, when there are none.
        let _ = sqlx::query("TRUNCATE confirmation, overdue CASCADE").execute(&self.pool).await;
    }

    /// Connects anew to a database that was away.
    pub(crate) async fn reconnect(&mut self) {
        self.pool = self.database.pool().await.unwrap();
    }

    /// The settings of its services, as a process has them.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let first = [
            ("COUNTERSIGN_AMQP_URL".to_owned(), self.vhost.url().to_owned()),
            ("COUNTERSIGN_DATABASE_URL".to_owned(), self.database.url().to_owned()),
            // The consumers of most tests have never been heard of.
            ("COUNTERSIGN_BACKLOG_GRACE".to_owned(), "1ms".to_owned()),
            // Fewer partitions to make.
            ("COUNTERSIGN_RETENTION".to_owned(), "2d".to_owned()),
        ];
        first.into_iter().chain(self.settings.clone()).collect()
    }

    /// The settings of its services.
    pub(crate) fn config(&self) -> Config {
        let mut settings = Settings::from_pairs(SETTINGS, self.environment());
        let config = Config::read(&mut settings);
        config.unwrap_or_else(|| panic!("wrong settings: {:?}", settings.mistakes()))
    }

    /// One more replica, ready.
    pub(crate) async fn start(&mut self) {
        self.start_with(self.config()).await;
    }

    pub(crate) async fn start_with(&mut self, config: Config) {
        let shutdown = CancellationToken::new();
        let service = Service::start(config, shutdown.clone()).await.unwrap();
        tokio::time::timeout(SOON, service.ready()).await.expect("the broker is there");
        self.replicas.push(Replica { service, shutdown });
    }

    /// What the replica that was started first has in hand.
    pub(crate) fn pulse(&self) -> Pulse {
        self.replicas[0].service.pulse()
    }

    /// Stops the replica that was started last.
    pub(crate) async fn stop_last(&mut self) {
        self.replicas.rotate_right(1);
        self.stop_first().await;
    }

    /// Stops the replica that was started first.
    pub(crate) async fn stop_first(&mut self) {
        let replica = self.replicas.remove(0);
        replica.shutdown.cancel();
        tokio::time::timeout(SOON, replica.service.finish())
            .await
            .expect("the service stops")
            .unwrap();
    }

    /// "These messages are due": `orders` waits for `consumers`.
    pub(crate) async fn check(&self, ids: &[MessageId], consumers: &[&str]) {
        self.check_of("orders", ids, consumers).await;
    }

    pub(crate) async fn check_of(&self, upstream: &str, ids: &[MessageId], consumers: &[&str]) {
        let messages: Vec<Value> =
            ids.iter().map(|id| json!({ "id": id.to_string(), "consumers": consumers })).collect();
        self.due(&json!({ "v": 1, "upstream": upstream, "armed_at_ms": 1, "messages": messages }))
            .await;
    }

    pub(crate) async fn due(&self, check: &Value) {
        self.publish("countersign.check.due", "", check.to_string().as_bytes()).await;
    }

    /// `consumer` has processed these messages.
    pub(crate) async fn confirm(&self, consumer: &str, ids: &[MessageId]) {
        let confirms = ids.iter().map(|id| json!({ "id": id.to_string(), "outcome": "processed" }));
        self.say(consumer, confirms.collect()).await;
    }

    pub(crate) async fn say(&self, consumer: &str, confirms: Vec<Value>) {
        let confirm = json!({ "v": 1, "consumer": consumer, "confirms": confirms });
        self.publish("countersign.confirm", "0", confirm.to_string().as_bytes()).await;
    }

    pub(crate) async fn publish(&self, exchange: &str, key: &str, body: &[u8]) {
        let properties = json!({ "delivery_mode": 2 });
        assert!(self.vhost.publish(exchange, key, properties, body).await, "{exchange} {key}");
    }

    /// Returns when `consumer`'s confirm of this message is recorded.
    pub(crate) async fn recorded(&self, consumer: &str, id: MessageId) {
        eventually(&format!("the confirm of {id} is recorded"), SOON, async || {
            self.has_confirmed(consumer, id).await
        })
        .await;
    }

    pub(crate) async fn has_confirmed(&self, consumer: &str, id: MessageId) -> bool {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM confirmation WHERE message_id = $1 AND consumer = $2)",
        )
        .bind(id.uuid())
        .bind(consumer)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    pub(crate) async fn row(&self, id: MessageId) -> Option<Row> {
        sqlx::query_as(
            "SELECT upstream, state, reason, resends, calls_not_made FROM overdue WHERE message_id = $1",
        )
        .bind(id.uuid())
        .fetch_optional(&self.pool)
        .await
        .unwrap()
    }

    /// Returns the message's row when it is in this state.
    pub(crate) async fn state(&self, id: MessageId, state: &str) -> Row {
        self.row_when(id, state, |row| row.state == state).await
    }

    /// Returns when there is no row of the message any more.
    pub(crate) async fn gone(&self, id: MessageId) {
        eventually(&format!("{id} is gone"), SOON, async || self.row(id).await.is_none()).await;
    }

    pub(crate) async fn row_when(
        &self,
        id: MessageId,
        what: &str,
        is: impl Fn(&Row) -> bool,
    ) -> Row {
        eventually(&format!("{id} is {what}"), SOON, async || match self.row(id).await {
            Some(row) if is(&row) => Ok(row),
            other => Err(other),
        })
        .await
    }

    /// The states it has gone through.
    pub(crate) async fn history(&self, id: MessageId) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT to_state FROM overdue_event WHERE message_id = $1 ORDER BY event_id",
        )
        .bind(id.uuid())
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Returns when this statement counts exactly so many.
    pub(crate) async fn counts(&self, what: &str, sql: &'static str, expected: i64) {
        counts(what, SOON, expected, async || self.count(sql).await).await;
    }

    /// Returns when so many overdue rows are in this state.
    pub(crate) async fn rows_are(&self, state: &'static str, expected: i64) {
        const SQL: &str = "SELECT count(*) FROM overdue WHERE state = $1";
        counts(&format!("rows that are {state}"), SOON, expected, async || {
            sqlx::query_scalar(SQL).bind(state).fetch_one(&self.pool).await.unwrap()
        })
        .await;
    }

    /// Returns when so many confirms are recorded.
    pub(crate) async fn confirms_are_recorded(&self, expected: i64) {
        self.counts("recorded confirms", "SELECT count(*) FROM confirmation", expected).await;
    }

    /// Returns when so many reports, each instead of a confirm, are recorded.
    pub(crate) async fn reports_are_recorded(&self, expected: i64) {
        self.counts("recorded reports", "SELECT count(*) FROM consumer_report", expected).await;
    }

    /// Returns when a replica consumes this queue.
    pub(crate) async fn is_consumed(&self, queue: &str) {
        eventually(&format!("a replica consumes {queue}"), SOON, async || {
            self.vhost.consumers(queue).await > 0
        })
        .await;
    }

    /// Returns when consumers hold so many messages of this queue un-acked.
    pub(crate) async fn are_held(&self, queue: &str, expected: u64) {
        counts(&format!("un-acked messages of {queue}"), SOON, expected, async || {
            self.vhost.depth(queue).await.unwrap_or_default().unacked
        })
        .await;
    }

    /// Returns when consumers have acked so many messages of this queue, in all its life.
    pub(crate) async fn are_acked(&self, queue: &str, expected: u64) {
        counts(&format!("acked messages of {queue}"), SOON, expected, async || {
            self.vhost.acked(queue).await
        })
        .await;
    }

    /// Returns when so many messages stand in quarantine.
    pub(crate) async fn are_quarantined(&self, expected: u64) {
        counts("quarantined messages", SOON, expected, async || {
            self.vhost.depth(QUARANTINE).await.unwrap_or_default().total()
        })
        .await;
    }

    /// The service, as people call it.
    pub(crate) fn admin(&self) -> CallbackClient<CallbackServer<impl Callback>> {
        CallbackClient::new(self.replicas[0].service.admin())
    }

    /// What the service says about its upstreams.
    pub(crate) async fn upstreams(&self) -> Vec<list_upstreams_response::Upstream> {
        let listed = self.admin().list_upstreams(ListUpstreamsRequest {}).await.unwrap();
        listed.into_inner().upstreams
    }

    /// What the service says about a message.
    pub(crate) async fn told(&self, id: &str) -> Result<GetMessageResponse, tonic::Status> {
        let request = GetMessageRequest { message_id: id.to_owned() };
        let admin = self.replicas[0].service.admin();
        Ok(CallbackClient::new(admin).get_message(request).await?.into_inner())
    }

    /// What the service answers to an upstream's sweep.
    pub(crate) async fn find_unconfirmed(
        &self,
        upstream: &str,
        messages: &[(String, &[&str])],
    ) -> Result<FindUnconfirmedResponse, tonic::Status> {
        let message = |(id, consumers): &(String, &[&str])| find_unconfirmed_request::Message {
            message_id: id.clone(),
            consumers: consumers.iter().map(|&name| name.to_owned()).collect(),
        };
        let messages = messages.iter().map(message).collect();
        let (upstream, database) = (upstream.to_owned(), DATABASE.to_owned());
        let request = FindUnconfirmedRequest { upstream, messages, database, sweep: None };
        let admin = self.replicas[0].service.admin();
        Ok(CallbackClient::new(admin).find_unconfirmed(request).await?.into_inner())
    }

    /// Stops all replicas. What they had not acked would come before what is published now.
    ///
    /// First everything said so far is heard: a confirm that is only on its way when a replica stops
    /// goes back, as it should.
    pub(crate) async fn all_is_acked_in_the_end(&mut self) {
        if !self.replicas.is_empty() {
            let last = MessageId::generate();
            let entry = json!({ "id": last.to_string(), "outcome": "processed" });
            self.say("the-last-one", vec![entry]).await;
            self.recorded("the-last-one", last).await;
        }
        while !self.replicas.is_empty() {
            self.stop_first().await;
        }
        let address = self.vhost.url().parse().unwrap();
        let connection =
            Connection::start(address, "looking for what is left", Topology::default());
        for (exchange, key, queue) in [
            ("countersign.confirm", "0", "countersign.confirm.0"),
            ("countersign.check.due", "", "countersign.check.due"),
            ("countersign.rolled_back", "", "countersign.rolled_back"),
        ] {
            self.publish(exchange, key, b"the end").await;
            let subscription =
                Subscription { queue: queue.to_owned(), prefetch: 10, priority: None };
            let mut consumer = Consumer::start(&connection, subscription);
            let first = loop {
                let next = tokio::time::timeout(SOON, consumer.next()).await;
                let next = next.expect("something comes").expect("the connection is open");
                // A marker may be on its way when a replica stops: it waits for the next.
                if next.properties.kind.as_deref() != Some("countersign.marker") {
                    break next;
                }
            };
            assert_eq!(first.body, b"the end"[..], "{queue}: {first:?}");
            consumer.close().await;
        }
        connection.close().await;
    }
}

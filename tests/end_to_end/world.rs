//! A world of one's own for each test: a vhost, three databases, and orders, logistics and the
//! callback service as processes.
//!
//! # What counts as a failure
//!
//! - a committed order that is neither shipped nor parked with a reason;
//! - an order shipped twice;
//! - a shipment for an order that was not committed;
//! - a delivery acked without its effect: an order that only a resend could ship, although nothing
//!   was destroyed;
//! - a process that panics, ends by itself, or is alive past its grace period.
//!
//! # What does not
//!
//! - a duplicate delivery;
//! - a resend of something already processed;
//! - a check for a transaction that rolled back;
//! - being late, as long as it is in time for the deadline of the wait.
//!
//! [`World::audit`] looks for all but the fourth, which depends on what a test destroys; each test
//! that places orders ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::callback_client::CallbackClient;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_protocol::grpc::{
    GetMessageRequest, GetMessageResponse, RequestResendRequest, RequestResendResponse,
};
use countersign_testbed::{
    BrokerAddress, Database, Folder, Peeked, PostgresAddress, Proxy, Servers, Service, Vhost,
    eventually,
};
use sqlx::PgPool;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use uuid::Uuid;

pub(crate) use self::proto::orders_client::OrdersClient;
use self::proto::{PlaceOrderRequest, PlaceOrderResponse};

/// How long anything may take that should happen at once, on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How long a healing may take: a check delay, a resend delay, and some more of each.
pub(crate) const HEALED: Duration = Duration::from_secs(60);
/// Longer than `COUNTERSIGN_DRAIN`, after which a process leaves whatever it has in hand.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Where the example's messages go.
pub(crate) const ORDERS_QUEUE: &str = "logistics.orders";
/// The confirms, with the one shard that there is.
pub(crate) const CONFIRM_QUEUE: &str = "countersign.confirm.0";
/// What the queues of checks that wait begin with; there is one for each delay.
const WAIT_QUEUES: &str = "countersign.check.wait.";
/// The checks that came due.
const DUE_QUEUE: &str = "countersign.check.due";
/// What could not be read.
pub(crate) const QUARANTINE: &str = "countersign.quarantine";

/// Everything that is running, and the ways to look at it.
#[derive(Debug)]
pub(crate) struct World {
    // Services are dropped first, while what they need is still there.
    pub(crate) orders: Service,
    pub(crate) logistics: Service,
    pub(crate) callback: Service,
    pub(crate) vhost: Vhost,
    pub(crate) databases: Databases,
    folder: Arc<Folder>,
}

/// The three databases, and connections to look into them.
#[derive(Debug)]
pub(crate) struct Databases {
    pub(crate) orders: PgPool,
    pub(crate) logistics: PgPool,
    pub(crate) callback: PgPool,
    orders_database: Database,
    logistics_database: Database,
    callback_database: Database,
}

/// An order that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) order_id: Uuid,
    pub(crate) message_id: Uuid,
}

/// A row of `overdue`.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Overdue {
    pub(crate) message_id: Uuid,
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) resends: i32,
}

impl World {
    /// Everything set up on the shared servers and nothing started, so that a test can change the
    /// environment first.
    pub(crate) async fn new() -> Self {
        let servers = Servers::shared().await.expect("servers");
        Self::on(servers.broker(), servers.postgres()).await
    }

    /// [`Self::new`], and everything started and ready.
    pub(crate) async fn running() -> Self {
        let mut world = Self::new().await;
        world.start().await;
        world
    }

    /// [`Self::new`] on servers of the test's own, which it may kill.
    pub(crate) async fn on(broker: &BrokerAddress, postgres: &PostgresAddress) -> Self {
        let folder = Arc::new(Folder::create("world").expect("a temporary folder"));
        let vhost = Vhost::create(broker).await.expect("a vhost");
        let databases = Databases::create(postgres).await;
        let service = |name: &str, binary: &str, database: &Database| {
            let mut service = Service::new(&folder, name, binary).expect("a built binary");
            service
                .set("COUNTERSIGN_AMQP_URL", vhost.url())
                .set("COUNTERSIGN_DATABASE_URL", database.url())
                .set("COUNTERSIGN_LOG_FORMAT", "text");
            service
        };
        let mut orders = service("orders", "orders", &databases.orders_database);
        let logistics = service("logistics", "logistics", &databases.logistics_database);
        let mut callback =
            service("callback", "countersign-callback", &databases.callback_database);
        orders.set("COUNTERSIGN_CHECK_DELAY", "1s").set("COUNTERSIGN_LONGEST_TRANSACTION", "5s");
        callback
            .set("COUNTERSIGN_UPSTREAMS", format!("orders={}", orders.url()))
            .set("COUNTERSIGN_CHECK_TIERS", "1s,5s")
            .set("COUNTERSIGN_RESEND_DELAY", "1s")
            .set("COUNTERSIGN_BACKLOG_PATIENCE", "2s")
            .set("COUNTERSIGN_MANAGEMENT_URL", broker.management_url())
            .set("COUNTERSIGN_MANAGEMENT_LAG", format!("{}ms", Vhost::FIGURES_AGE.as_millis()));
        Self { orders, logistics, callback, vhost, databases, folder }
    }

    /// Starts all three services and waits until they are ready.
    pub(crate) async fn start(&mut self) {
        for service in [&mut self.callback, &mut self.orders, &mut self.logistics] {
            service.start().expect("a start");
        }
        for service in [&mut self.callback, &mut self.orders, &mut self.logistics] {
            service.ready(SOON).await.expect("ready");
        }
    }

    /// Another service of the same kind, with the same environment but a port of its own.
    pub(crate) fn replica(&self, of: &Service, name: &str) -> Service {
        of.replica(&self.folder, name).expect("a replica")
    }

    /// Places an order. On a busy machine the broker may take longer to confirm a check than orders
    /// waits for it; then it is placed anew.
    pub(crate) async fn place(&self, name: &str) -> Placed {
        place(OrdersClient::new(channel(&self.orders)), name).await
    }

    /// Places an order that may be refused.
    pub(crate) async fn try_place(&self, name: &str) -> Result<Placed, Status> {
        try_place(&mut OrdersClient::new(channel(&self.orders)), name).await
    }

    /// Places so many orders, some of them at the same time.
    pub(crate) async fn place_many(&self, count: usize) -> Vec<Placed> {
        self.place_many_at(&self.orders, count).await
    }

    /// [`Self::place_many`], at another service like orders.
    pub(crate) async fn place_many_at(&self, service: &Service, count: usize) -> Vec<Placed> {
        const AT_A_TIME: usize = 20;
        let orders = OrdersClient::new(channel(service));
        let mut placed = Vec::with_capacity(count);
        while placed.len() < count {
            let mut tasks = JoinSet::new();
            for n in placed.len()..count.min(placed.len() + AT_A_TIME) {
                let orders = orders.clone();
                tasks.spawn(async move { place(orders, &format!("order {n}")).await });
            }
            placed.extend(tasks.join_all().await);
        }
        placed
    }

    /// Asks orders by hand to send a message again.
    pub(crate) async fn request_resend(
        &self,
        message_id: &str,
    ) -> Result<RequestResendResponse, Status> {
        let request =
            RequestResendRequest { message_id: message_id.to_owned(), ..Default::default() };
        Ok(UpstreamClient::new(channel(&self.orders)).request_resend(request).await?.into_inner())
    }

    /// Leads to the callback service.
    pub(crate) fn callback_channel(&self) -> Channel {
        channel(&self.callback)
    }

    /// What the callback service knows about a message.
    pub(crate) async fn message(&self, message_id: Uuid) -> Result<GetMessageResponse, Status> {
        let request = GetMessageRequest { message_id: message_id.to_string() };
        Ok(CallbackClient::new(channel(&self.callback)).get_message(request).await?.into_inner())
    }

    /// Waits until `GetMessage` gives this state; returns the whole answer.
    pub(crate) async fn is_in_state(&self, order: &Placed, state: &str) -> GetMessageResponse {
        eventually(&format!("message {} is {state}", order.message_id), HEALED, async || match self
            .message(order.message_id)
            .await
        {
            Ok(message) if message.state == state => Ok(message),
            Ok(other) => Err(format!("{} ({})", other.state, other.reason)),
            Err(status) => Err(status.to_string()),
        })
        .await
    }

    /// Waits until an order is shipped.
    pub(crate) async fn shipped(&self, order: &Placed) {
        eventually(&format!("order {} is shipped", order.order_id), HEALED, async || {
            self.shipments(order).await > 0
        })
        .await;
    }

    /// How many shipments an order has.
    pub(crate) async fn shipments(&self, order: &Placed) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM shipments WHERE order_id = $1")
            .bind(order.order_id)
            .fetch_one(&self.databases.logistics)
            .await
            .expect("the number of shipments")
    }

    /// Somebody who places orders, over a connection of their own.
    pub(crate) fn caller(&self) -> OrdersClient<Channel> {
        OrdersClient::new(channel(&self.orders))
    }

    /// Starts to place an order that may be refused.
    pub(crate) fn placing(&self, name: &str) -> JoinHandle<Result<PlaceOrderResponse, Status>> {
        let mut orders = OrdersClient::new(channel(&self.orders));
        let request = PlaceOrderRequest { name: name.to_owned() };
        tokio::spawn(async move { Ok(orders.place_order(request).await?.into_inner()) })
    }

    /// Waits until orders takes an order again, after an outage.
    pub(crate) async fn places_again(&self) {
        eventually("orders takes orders again", HEALED, async || {
            self.try_place("after the outage").await.map(drop).map_err(|status| status.to_string())
        })
        .await;
    }

    /// Puts a proxy between a service and its database, from its next start on.
    pub(crate) async fn database_through_proxy(&mut self, name: &str) -> Proxy {
        let url = match name {
            "orders" => self.databases.orders_database.url(),
            "logistics" => self.databases.logistics_database.url(),
            "callback" => self.databases.callback_database.url(),
            other => panic!("no service {other}"),
        };
        let (proxy, url) = through_proxy(url).await;
        self.service(name).set("COUNTERSIGN_DATABASE_URL", url);
        proxy
    }

    /// Puts a proxy between a service and the broker, from its next start on. A silent broker is
    /// noticed after some seconds.
    pub(crate) async fn broker_through_proxy(&mut self, name: &str) -> Proxy {
        let (proxy, url) = through_proxy(self.vhost.url()).await;
        self.service(name).set("COUNTERSIGN_AMQP_URL", format!("{url}?heartbeat=1"));
        proxy
    }

    /// One of the three services, by its name.
    pub(crate) fn service(&mut self, name: &str) -> &mut Service {
        match name {
            "orders" => &mut self.orders,
            "logistics" => &mut self.logistics,
            "callback" => &mut self.callback,
            other => panic!("no service {other}"),
        }
    }

    /// Waits until a service has ended at its crash point, and starts it without one.
    pub(crate) async fn crashed_and_started_again(&mut self, name: &str) {
        let service = self.service(name);
        let ended = service.wait(HEALED).await.expect("it reaches its crash point");
        assert_eq!(ended.signal(), Some(ABORTED), "{name} ended otherwise: {ended}");
        service.unset("FAILPOINTS").start().expect("a start");
        service.ready(SOON).await.expect("ready");
    }

    /// Every committed order.
    pub(crate) async fn committed_orders(&self) -> Vec<Placed> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as("SELECT order_id, message_id FROM orders")
            .fetch_all(&self.databases.orders)
            .await
            .expect("the committed orders");
        rows.into_iter().map(|(order_id, message_id)| Placed { order_id, message_id }).collect()
    }

    /// The one committed order that there is.
    pub(crate) async fn only_committed_order(&self) -> Placed {
        let orders = self.committed_orders().await;
        assert_eq!(orders.len(), 1, "{orders:?}");
        orders[0]
    }

    /// How many duplicates the inbox has seen.
    pub(crate) async fn duplicates(&self) -> i64 {
        sqlx::query_scalar("SELECT coalesce(sum(duplicates), 0)::bigint FROM countersign.inbox")
            .fetch_one(&self.databases.logistics)
            .await
            .expect("the number of duplicates")
    }

    /// Waits until the inbox has seen so many duplicates.
    pub(crate) async fn has_duplicates(&self, count: i64) {
        eventually(&format!("the inbox has seen {count} duplicates"), HEALED, async || {
            let seen = self.duplicates().await;
            if seen == count { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// Waits until there is one overdue row, in this state.
    pub(crate) async fn only_overdue_row_is(&self, state: &str) {
        eventually(&format!("the only overdue row is {state}"), HEALED, async || {
            let rows = self.overdue().await;
            if matches!(&*rows, [row] if row.state == state) { Ok(()) } else { Err(rows) }
        })
        .await;
    }

    /// Waits until a query of ids on the ledger finds all of these.
    pub(crate) async fn callback_finds(
        &self,
        what: &str,
        query: &'static str,
        ids: &BTreeSet<String>,
    ) {
        eventually(what, HEALED, async || {
            let found: Vec<String> = sqlx::query_scalar(query)
                .fetch_all(&self.databases.callback)
                .await
                .expect("the ids");
            let found: BTreeSet<String> = found.into_iter().collect();
            let missing: Vec<&String> = ids.difference(&found).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!(
                    "{} of {} are missing: {:?}",
                    missing.len(),
                    ids.len(),
                    missing.first()
                ))
            }
        })
        .await;
    }

    /// How many messages of a queue carry a reason. They are taken out.
    pub(crate) async fn with_reason(&self, queue: &str) -> u64 {
        const AT_A_TIME: u64 = 50;
        let mut count = 0;
        loop {
            let some = self.vhost.take(queue, AT_A_TIME).await;
            if some.is_empty() {
                return count;
            }
            // Some garbage brings a header of that name, which is no text.
            let has_reason = |peeked: &&Peeked| {
                peeked.headers.get("countersign-reason").is_some_and(serde_json::Value::is_string)
            };
            count += u64::try_from(some.iter().filter(has_reason).count()).expect("a small number");
        }
    }

    /// All overdue rows, open and closed, oldest message first.
    pub(crate) async fn overdue(&self) -> Vec<Overdue> {
        sqlx::query_as("SELECT message_id, state, reason, resends FROM overdue ORDER BY message_id")
            .fetch_all(&self.databases.callback)
            .await
            .expect("the overdue rows")
    }

    /// The overdue rows of committed orders: an order that was refused may have left a check.
    pub(crate) async fn overdue_orders(&self) -> Vec<Overdue> {
        let orders = self.committed_orders().await;
        let is_committed =
            |row: &Overdue| orders.iter().any(|order| order.message_id == row.message_id);
        let mut rows = self.overdue().await;
        rows.retain(is_committed);
        rows
    }

    /// Waits until no check is left that waits, or has come due and is not looked up yet.
    pub(crate) async fn checks_have_come_due(&self) {
        self.are_quiet(HEALED, |queue| queue.starts_with(WAIT_QUEUES) || queue == DUE_QUEUE).await;
    }

    /// Destroys what lies in a queue, when there is something.
    pub(crate) async fn destroy(&self, queue: &str) {
        eventually(&format!("{queue} holds something"), SOON, async || {
            match self.vhost.depth(queue).await {
                Some(depth) if depth.ready > 0 => Ok(()),
                other => Err(other),
            }
        })
        .await;
        self.vhost.purge(queue).await;
    }

    /// Waits until a queue holds nothing, neither ready nor in a consumer's hands.
    pub(crate) async fn is_empty(&self, queue: &str) {
        self.holds(queue, 0).await;
    }

    /// Waits until a queue holds so many messages, ready or in a consumer's hands.
    pub(crate) async fn holds(&self, queue: &str, messages: u64) {
        // What is told at once may be of before the call.
        tokio::time::sleep(Vhost::FIGURES_AGE).await;
        eventually(&format!("{queue} holds {messages}"), HEALED, async || {
            match self.vhost.depth(queue).await {
                Some(depth) if depth.total() == messages => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Waits until a queue holds at least so many messages that no consumer holds.
    pub(crate) async fn holds_at_least(&self, queue: &str, messages: u64) {
        eventually(&format!("{queue} holds {messages} or more"), SOON, async || {
            match self.vhost.depth(queue).await {
                Some(depth) if depth.ready >= messages => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Waits until nothing is in these queues, nor on its way from one to another.
    async fn are_quiet(&self, deadline: Duration, which: impl Fn(&str) -> bool) {
        let mut queues = self.vhost.queues().await;
        queues.retain(|queue| which(queue));
        let mut was_quiet = false;
        eventually(&format!("nothing is left in {queues:?}"), deadline, async || {
            // Twice, each time of after the last look: what was on its way has arrived by then.
            tokio::time::sleep(Vhost::FIGURES_AGE).await;
            let mut left = Vec::new();
            for queue in &queues {
                match self.vhost.depth(queue).await {
                    Some(depth) if depth.total() == 0 => {}
                    other => left.push((queue.clone(), other)),
                }
            }
            let quiet_before = std::mem::replace(&mut was_quiet, left.is_empty());
            if was_quiet && quiet_before { Ok(()) } else { Err(left) }
        })
        .await;
    }

    /// Ends the world: waits until nothing is under way any more, looks for what counts as a failure,
    /// and stops what runs.
    pub(crate) async fn audit(self) {
        self.balances(HEALED).await;
        self.ends().await;
    }

    /// Waits until nothing is under way any more, and looks for what counts as a failure.
    pub(crate) async fn balances(&self, deadline: Duration) {
        self.are_quiet(deadline, |queue| queue != QUARANTINE && !queue.ends_with(".dead")).await;
        eventually(
            "every committed order is shipped once or parked with a reason",
            deadline,
            async || {
                let wrong = self.books().await.wrong();
                if wrong.is_empty() { Ok(()) } else { Err(wrong) }
            },
        )
        .await;
    }

    /// Stops what runs; each ends in time, in good order and without having panicked before.
    pub(crate) async fn ends(mut self) {
        for service in [&mut self.orders, &mut self.logistics, &mut self.callback] {
            ends(service).await;
        }
    }

    async fn books(&self) -> Books {
        let committed = sqlx::query_as("SELECT order_id, message_id FROM orders")
            .fetch_all(&self.databases.orders)
            .await
            .expect("the committed orders");
        let shipments: Vec<_> =
            sqlx::query_as("SELECT order_id, count(*) FROM shipments GROUP BY order_id")
                .fetch_all(&self.databases.logistics)
                .await
                .expect("the shipments");
        let parked: Vec<_> =
            sqlx::query_as("SELECT message_id, reason FROM overdue WHERE state = 'parked'")
                .fetch_all(&self.databases.callback)
                .await
                .expect("the parked messages");
        Books {
            committed,
            shipments: shipments.into_iter().collect(),
            parked: parked.into_iter().collect(),
        }
    }
}

impl Databases {
    /// Of orders, logistics and callback.
    pub(crate) fn urls(&self) -> [&str; 3] {
        [self.orders_database.url(), self.logistics_database.url(), self.callback_database.url()]
    }

    async fn create(server: &PostgresAddress) -> Self {
        let create = async || Database::create(server).await.expect("a database");
        let (orders_database, logistics_database, callback_database) =
            (create().await, create().await, create().await);
        Self {
            orders: orders_database.pool().await.expect("a connection"),
            logistics: logistics_database.pool().await.expect("a connection"),
            callback: callback_database.pool().await.expect("a connection"),
            orders_database,
            logistics_database,
            callback_database,
        }
    }
}

/// What the three databases say about the orders.
#[derive(Debug, Default)]
struct Books {
    /// Orders, and the message of each.
    committed: Vec<(Uuid, Uuid)>,
    /// How often orders were shipped.
    shipments: BTreeMap<Uuid, i64>,
    /// Messages that were given up, and why.
    parked: BTreeMap<Uuid, String>,
}

impl Books {
    /// What counts as a failure, a line for each order.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (order_id, message_id) in &self.committed {
            match (self.shipments.get(order_id), self.parked.get(message_id)) {
                (Some(1), _) => {}
                (Some(count), _) => {
                    wrong.push(format!("order {order_id} is shipped {count} times"));
                }
                (None, None) => {
                    wrong.push(format!("order {order_id} is neither shipped nor parked"));
                }
                (None, Some(reason)) if reason.is_empty() => {
                    wrong.push(format!("order {order_id} is parked without a reason"));
                }
                (None, Some(_)) => {}
            }
        }
        let committed: BTreeSet<&Uuid> =
            self.committed.iter().map(|(order_id, _)| order_id).collect();
        for order_id in self.shipments.keys().filter(|order_id| !committed.contains(order_id)) {
            wrong.push(format!("order {order_id} is shipped and was never committed"));
        }
        wrong
    }
}

#[test]
fn the_books_show_every_failure_and_nothing_else() {
    let id = |n: u128| Uuid::from_u128(n);
    let committed = vec![(id(1), id(11)), (id(2), id(12)), (id(3), id(13)), (id(4), id(14))];
    let good = Books {
        committed: committed.clone(),
        shipments: [(id(1), 1), (id(2), 1), (id(3), 1)].into(),
        parked: [(id(13), "late".to_owned()), (id(14), "gave up".to_owned())].into(),
    };
    assert_eq!(good.wrong(), [""; 0]);

    let bad = Books {
        committed,
        shipments: [(id(1), 2), (id(2), 1), (id(5), 1)].into(),
        parked: [(id(14), String::new())].into(),
    };
    let wrong = bad.wrong();
    let expected =
        ["shipped 2 times", "neither shipped nor parked", "without a reason", "never committed"];
    assert_eq!(wrong.len(), expected.len(), "{wrong:?}");
    for (wrong, expected) in wrong.iter().zip(expected) {
        assert!(wrong.contains(expected), "{wrong:?}");
    }
}

/// An id that nobody uses, as if made so long ago.
pub(crate) fn id_of_age(age: Duration) -> MessageId {
    let random = std::array::from_fn(|_| fastrand::u8(..));
    MessageId::from_parts(MessageId::generate().time().before(age), random)
}

/// The environment `FAILPOINTS` of a process that is to die at this point, the first time it gets
/// there.
pub(crate) fn crash_at(point: &str) -> String {
    format!("{point}=return")
}

/// Stops a service, if it is meant to run; it ends in time, in good order and without having panicked
/// before.
pub(crate) async fn ends(service: &mut Service) {
    if service.is_meant_to_run() {
        assert_eq!(service.ended(), None, "{} ended by itself", service.name());
        let status = service.terminate(GRACE).await.expect("an end in time");
        assert!(status.success(), "{} ended with {status}", service.name());
    }
    let log = service.log();
    let panic = log.lines().find(|line| line.contains("panicked at"));
    assert_eq!(panic, None, "{} panicked", service.name());
}

/// `SIGABRT`, by which a process ends at its crash point.
pub(crate) const ABORTED: i32 = 6;

async fn place(mut orders: OrdersClient<Channel>, name: &str) -> Placed {
    let end = Instant::now() + SOON;
    loop {
        match try_place(&mut orders, name).await {
            Ok(placed) => return placed,
            Err(status) if status.code() == Code::Unavailable && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(status) => panic!("no order is taken: {status:?}"),
        }
    }
}

pub(crate) async fn try_place(
    orders: &mut OrdersClient<Channel>,
    name: &str,
) -> Result<Placed, Status> {
    let request = PlaceOrderRequest { name: name.to_owned() };
    let placed = orders.place_order(request).await?.into_inner();
    let id = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a UUID: {text:?}"));
    Ok(Placed { order_id: id(&placed.order_id), message_id: id(&placed.message_id) })
}

/// A proxy in front of the server that a URL names, and the URL by way of it.
async fn through_proxy(url: &str) -> (Proxy, String) {
    let (before, rest) = url.split_once('@').expect("a URL with a user");
    let (address, after) = rest.split_once('/').expect("a URL with a path");
    let proxy = Proxy::start(address.parse().expect("an address")).await.expect("a proxy");
    let url = format!("{before}@{}/{after}", proxy.address());
    (proxy, url)
}

/// Connects when first used, and again when the service was started again.
pub(crate) fn channel(service: &Service) -> Channel {
    Endpoint::from_shared(service.url()).expect("a URL").timeout(SOON).connect_lazy()
}

/// The example's gRPC interface, from `proto/orders/v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::must_use_candidate,
    reason = "generated from the .proto file, which carries the documentation"
)]
mod proto {
    tonic::include_proto!("orders.v1");
}

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

mod audit;
mod look;
mod queues;

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_protocol::grpc::{RequestResendRequest, RequestResendResponse};
use countersign_testbed::{
    BrokerAddress, Database, Folder, HEALED, Order, PostgresAddress, Proxy, SOON, Servers, Service,
    Vhost, eventually,
};
use orders::grpc::{PlaceOrderRequest, PlaceOrderResponse};
use sqlx::PgPool;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub(crate) use self::audit::ends;

/// The example's gRPC client, as any user has it.
pub(crate) type OrdersClient = orders::grpc::orders_client::OrdersClient<Channel>;

/// Longer than `COUNTERSIGN_DRAIN`, after which a process leaves the rest of its work.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// The queue of the example's messages.
pub(crate) const ORDERS_QUEUE: &str = "logistics.orders";
/// The queue of confirms: this world has one shard.
pub(crate) const CONFIRM_QUEUE: &str = "countersign.confirm.0";
/// The queue of messages that could not be read.
pub(crate) const QUARANTINE: &str = "countersign.quarantine";

/// All running services, and the ways to look at them.
#[derive(Debug)]
pub(crate) struct World {
    // Services are dropped first, while the servers that they need are still there.
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

impl World {
    /// The world set up on the shared servers, with no service started, so that a test can change
    /// the environment first.
    pub(crate) async fn new() -> Self {
        let servers = Servers::shared().await.expect("servers");
        Self::on(servers.broker(), servers.postgres()).await
    }

    /// [`Self::new`], with all services started and ready.
    pub(crate) async fn running() -> Self {
        let world = Self::new().await;
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
            .set("COUNTERSIGN_BACKLOG_GRACE", "2s")
            .set("COUNTERSIGN_MANAGEMENT_URL", broker.management_url())
            .set("COUNTERSIGN_MANAGEMENT_LAG", format!("{}ms", Vhost::FIGURES_AGE.as_millis()));
        Self { orders, logistics, callback, vhost, databases, folder }
    }

    /// Starts all three services and waits until they are ready.
    pub(crate) async fn start(&self) {
        for service in [&self.callback, &self.orders, &self.logistics] {
            service.start().expect("a start");
        }
        for service in [&self.callback, &self.orders, &self.logistics] {
            service.ready(SOON).await.expect("ready");
        }
    }

    /// Another service of the same kind, with the same environment but a port of its own.
    pub(crate) fn replica(&self, of: &Service, name: &str) -> Service {
        of.replica(&self.folder, name).expect("a replica")
    }

    /// Places an order. On a busy machine the broker may take longer to confirm a check than orders
    /// waits for it; then the order is placed anew.
    pub(crate) async fn place(&self, name: &str) -> Order {
        place(OrdersClient::new(channel(&self.orders)), name).await
    }

    /// Places an order that may be refused.
    pub(crate) async fn try_place(&self, name: &str) -> Result<Order, Status> {
        try_place(&mut OrdersClient::new(channel(&self.orders)), name).await
    }

    /// Places this many orders, some of them at the same time.
    pub(crate) async fn place_many(&self, count: usize) -> Vec<Order> {
        self.place_many_at(&self.orders, count).await
    }

    /// [`Self::place_many`], at another service like orders.
    pub(crate) async fn place_many_at(&self, service: &Service, count: usize) -> Vec<Order> {
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

    /// Asks the service orders by hand to send a message again.
    pub(crate) async fn request_resend(
        &self,
        message_id: &str,
    ) -> Result<RequestResendResponse, Status> {
        let message_id = message_id.to_owned();
        self.ask_orders(RequestResendRequest { message_id, ..Default::default() }).await
    }

    /// Asks the service orders what the callback service would ask it.
    pub(crate) async fn ask_orders(
        &self,
        request: RequestResendRequest,
    ) -> Result<RequestResendResponse, Status> {
        Ok(UpstreamClient::new(channel(&self.orders)).request_resend(request).await?.into_inner())
    }

    /// A caller that places orders, over a connection of its own.
    pub(crate) fn caller(&self) -> OrdersClient {
        OrdersClient::new(channel(&self.orders))
    }

    /// Starts to place an order that may be refused.
    pub(crate) fn placing(&self, name: &str) -> JoinHandle<Result<PlaceOrderResponse, Status>> {
        let mut orders = OrdersClient::new(channel(&self.orders));
        let request = PlaceOrderRequest { name: name.to_owned() };
        tokio::spawn(async move { Ok(orders.place_order(request).await?.into_inner()) })
    }

    /// Waits until the service orders takes an order again, after an outage.
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
        let (proxy, url) = Proxy::before(url).await.expect("a proxy");
        self.service(name).set("COUNTERSIGN_DATABASE_URL", url);
        proxy
    }

    /// Puts a proxy between a service and the broker, from its next start on. The service notices a
    /// silent broker after some seconds.
    pub(crate) async fn broker_through_proxy(&mut self, name: &str) -> Proxy {
        let (proxy, url) = Proxy::before(self.vhost.url()).await.expect("a proxy");
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
}

impl Databases {
    /// The URLs of the databases of orders, logistics and callback.
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

/// The environment `FAILPOINTS` of a process that is to die at this point, the first time it gets
/// there.
pub(crate) fn crash_at(point: &str) -> String {
    format!("{point}=return")
}

/// `SIGABRT`, by which a process ends at its crash point.
pub(crate) const ABORTED: i32 = 6;

async fn place(mut orders: OrdersClient, name: &str) -> Order {
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

pub(crate) async fn try_place(orders: &mut OrdersClient, name: &str) -> Result<Order, Status> {
    let request = PlaceOrderRequest { name: name.to_owned() };
    let placed = orders.place_order(request).await?.into_inner();
    let id = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a UUID: {text:?}"));
    Ok(Order { order_id: id(&placed.order_id), message_id: id(&placed.message_id) })
}

/// Connects with the first call, and again after the service was started again.
pub(crate) fn channel(service: &Service) -> Channel {
    Endpoint::from_shared(service.url()).expect("a URL").timeout(SOON).connect_lazy()
}

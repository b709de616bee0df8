//! The demo's servers and processes: a private broker and database, and the three services.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use countersign_testbed::{Broker, BrokerSettings, Folder, Postgres, PostgresSettings};

use crate::service::Service;
use crate::story::Story;

/// How long a message may stay unconfirmed before the callback service looks: short, so that a
/// person sees it happen.
pub(crate) const CHECK_DELAY_S: u64 = 5;
const CHECK_DELAY: &str = "5s";
const RESEND_DELAY: &str = "2s";
/// How long a message that its consumer has passed may still take: shorter than an operator would
/// set it, so that a person sees the healing.
const BACKLOG_GRACE: &str = "2s";
/// How old the broker's figures may be: the testbed's broker counts anew all the time.
const MANAGEMENT_LAG: &str = "2s";
/// After this long an order that a killed process left behind is known never to commit.
const LONGEST_TRANSACTION: &str = "10s";

/// The running demo. Dropping the value kills all processes and removes their data.
#[derive(Debug)]
pub(crate) struct Stage {
    // The fields stand in the order in which they are dropped.
    pub(crate) orders: Service,
    pub(crate) logistics: Service,
    pub(crate) callback: Service,
    pub(crate) broker: Broker,
    pub(crate) postgres: Postgres,
    folder: Arc<Folder>,
}

impl Stage {
    /// Starts all processes and waits until they are ready.
    pub(crate) async fn build(story: &Story) -> Result<Self> {
        let folder = Arc::new(Folder::create("demo")?);
        let (broker, postgres) = story
            .step(
                "a private RabbitMQ and Postgres, on free ports and in a temporary folder",
                async {
                    tokio::try_join!(
                        Broker::start(BrokerSettings::default()),
                        Postgres::start(PostgresSettings::default())
                    )
                },
            )
            .await?;
        let amqp = broker.address().url("/");
        let service = |name: &str, program: &str, more: &[(&str, &str)]| {
            let database = postgres.address().url(name);
            let common =
                [("COUNTERSIGN_AMQP_URL", &*amqp), ("COUNTERSIGN_DATABASE_URL", &*database)];
            Service::new(&folder, name, program, &[&common[..], more].concat())
        };
        let orders = service(
            "orders",
            "orders",
            &[
                ("COUNTERSIGN_CHECK_DELAY", CHECK_DELAY),
                ("COUNTERSIGN_LONGEST_TRANSACTION", LONGEST_TRANSACTION),
            ],
        )?;
        let upstreams = format!("orders=http://{}", orders.address());
        let callback = service(
            "callback",
            "countersign-callback",
            &[
                ("COUNTERSIGN_UPSTREAMS", &upstreams),
                ("COUNTERSIGN_CHECK_TIERS", CHECK_DELAY),
                ("COUNTERSIGN_RESEND_DELAY", RESEND_DELAY),
                ("COUNTERSIGN_BACKLOG_GRACE", BACKLOG_GRACE),
                ("COUNTERSIGN_MANAGEMENT_URL", &broker.address().management_url()),
                ("COUNTERSIGN_MANAGEMENT_LAG", MANAGEMENT_LAG),
            ],
        )?;
        let logistics = service("logistics", "logistics", &[])?;
        let stage = Self { orders, logistics, callback, broker, postgres, folder };
        story
            .step("orders, logistics and callback, each a process of its own", async {
                for database in ["orders", "logistics", "callback"] {
                    let create = format!("CREATE DATABASE {database}");
                    stage.postgres.run(&create).await.context("no database can be made")?;
                }
                let [a, b, c] = stage.services().map(Service::start);
                tokio::try_join!(a, b, c)
            })
            .await?;
        Ok(stage)
    }

    /// # Errors
    /// If one of the services ended by itself.
    pub(crate) fn check_alive(&self) -> Result<()> {
        self.services().into_iter().try_for_each(Service::check_alive)
    }

    fn services(&self) -> [&Service; 3] {
        [&self.callback, &self.orders, &self.logistics]
    }

    /// How to reach everything, for a person.
    pub(crate) fn directions(&self) -> String {
        let broker = self.broker.address();
        let database = |name| self.postgres.address().url(name);
        let (orders, callback) = (self.orders.address(), self.callback.address());
        format!(
            "\
RabbitMQ     http://127.0.0.1:{management}  user {user}, password {password}
             {amqp}
Postgres     psql {orders_db}
             psql {logistics_db}
             psql {callback_db}
logs         {logs}/*.log

An order; then what is known of its message; then the message sent again by hand:
  grpcurl -plaintext -d '{{\"name\":\"a teapot\"}}' {orders} orders.v1.Orders/PlaceOrder
  grpcurl -plaintext -d '{{\"message_id\":\"…\"}}' {callback} countersign.v1.Callback/GetMessage
  grpcurl -plaintext -d '{{\"message_id\":\"…\"}}' {orders} countersign.v1.Upstream/RequestResend",
            management = broker.management_port,
            user = broker.user,
            password = broker.password,
            amqp = broker.url("/"),
            orders_db = database("orders"),
            logistics_db = database("logistics"),
            callback_db = database("callback"),
            logs = self.folder.path().display(),
        )
    }
}

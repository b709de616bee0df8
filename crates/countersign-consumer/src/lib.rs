//! The SDK of a downstream: takes effect once for each message, and countersigns it.
//!
//! A [`Handler`] does its work on a transaction that also holds the message's row in the inbox,
//! table `countersign.inbox`. The order is: the transaction **commits**, the confirm is **in the
//! broker**, the delivery is **acked**. Whatever dies in between, the message comes back; the inbox
//! then knows it, nothing is run, and it is confirmed again.
//!
//! ```no_run
//! # use countersign_consumer::{ConsumerSettings, Delivery, ExchangeKind, Failure, Handler};
//! # use sqlx::PgConnection;
//! #[derive(serde::Deserialize)]
//! struct OrderPlaced {
//!     name: String,
//! }
//!
//! struct Ship;
//!
//! impl Handler for Ship {
//!     async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), Failure> {
//!         let order: OrderPlaced = delivery.json()?;
//!         sqlx::query("INSERT INTO shipments (name) VALUES ($1)")
//!             .bind(order.name)
//!             .execute(tx)
//!             .await?;
//!         Ok(())
//!     }
//! }
//!
//! # async fn example(pool: sqlx::PgPool, shutdown: tokio_util::sync::CancellationToken)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let settings = ConsumerSettings::new("logistics".parse()?, "logistics.orders")
//!     .bound_to("orders", ExchangeKind::Topic, "order.placed");
//! let address = "amqp://guest:guest@localhost:5672/%2f".parse()?;
//! countersign_consumer::run(address, settings, pool, Ship, shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A downstream that is idempotent by itself can do [without an inbox](start_without_inbox), and
//! without Postgres.

mod run;

mod settings;

mod handler;

mod delivery;

mod failure;

mod worker;

mod effect;

mod inbox;

mod decision;

mod ending;

mod copies;

mod confirms;

mod patience;

mod backoff;

mod complaints;

mod clock;

mod error;

pub use countersign_protocol::topology::ExchangeKind;
pub use delivery::Delivery;
pub use error::Error;
pub use failure::Failure;
pub use handler::{BatchHandler, Handler};
pub use run::{
    Running, run, run_batches, run_without_inbox, start, start_batches, start_without_inbox,
};
pub use settings::{Binding, ConsumerSettings};

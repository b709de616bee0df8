//! The SDK of a downstream: takes effect once for each message, and countersigns it.
//!
//! A [`Handler`] does its work on a transaction that also holds the message's row in the inbox,
//! table `countersign.inbox`. The order is: the transaction **commits**, the confirm is **in the
//! broker**, the delivery is **acked**. Whatever dies in between, the broker delivers the message again; the
//! inbox then knows it, no handler runs, and the consumer confirms again.
//!
//! ```no_run
//! # use countersign_consumer::{Consumer, ConsumerSettings, Delivery, ExchangeKind, Failure, Handler};
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
//! Consumer::new(address, settings).with_inbox(pool).handler(Ship).run(shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A downstream that is idempotent by itself can do [without an inbox](Consumer::without_inbox), and
//! without Postgres.

// What the user sets up: the consumer step by step, its settings and its handler, and how a handler
// fails.
mod consumer;
mod delivery;
mod error;
mod failure;
mod handler;
mod settings;

// A consumer at work: from its connections to a worker that tries each delivery, and what follows from
// how a try ended.
mod after_try;
mod bounds;
mod launch;
mod name_in_use;
mod running;
mod task_retry;
mod unfit;
mod worker;

// The effect: the handler in one transaction with the inbox's rows. All SQL is in `inbox`.
mod effect;
mod inbox;

// How a delivery ends: its copy stands in its queue, the broker has its confirm, and it is acked, in that
// order.
mod ending;

mod clock;

pub use consumer::{Consumer, Ready, Undecided, WithInbox, WithoutInbox};
pub use countersign_protocol::topology::ExchangeKind;
pub use countersign_retry::Pulse;
pub use delivery::Delivery;
pub use error::Error;
pub use failure::Failure;
pub use handler::{BatchHandler, Handler};
pub use running::Running;
pub use settings::{Binding, ConsumerSettings};

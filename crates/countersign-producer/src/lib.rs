//! The upstream's side of Countersign: it sends a message with a transaction, and sends it again
//! when the callback service asks because a consumer did not confirm.
//!
//! ```no_run
//! # use countersign_producer::{Message, Publisher};
//! # async fn place(publisher: &Publisher, pool: &sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! let message = Message::json("orders", "order.placed", "order.placed", &"a chair")?;
//! let message_id = message.id();
//! let armed = publisher.arm(message)?;          // its check leaves at once, in a shared batch
//! let mut tx = armed.begin(pool).await?;        // BEGIN and enlist, in one round trip
//! sqlx::query("INSERT INTO orders (message_id, name) VALUES ($1, 'a chair')")
//!     .bind(message_id.uuid())
//!     .execute(&mut *tx)
//!     .await?;
//! let committed = tx.commit().await?;           // waits until the broker has the check
//! committed.publish();                          // handed over; the check heals the rest
//! # Ok(())
//! # }
//! ```
//!
//! The order of the steps is in the types. There is no transaction without a check on its way,
//!
//! ```compile_fail,E0599
//! # async fn wrong(message: countersign_producer::Message, pool: &sqlx::PgPool) {
//! let tx = message.begin(pool).await;
//! # }
//! ```
//!
//! no publish before the commit,
//!
//! ```compile_fail,E0599
//! # async fn wrong(armed: countersign_producer::Armed, pool: &sqlx::PgPool) {
//! let tx = armed.begin(pool).await.unwrap();
//! tx.publish();
//! # }
//! ```
//!
//! no commit or publish a second time,
//!
//! ```compile_fail,E0382
//! # async fn wrong(tx: countersign_producer::Enlisted) {
//! let committed = tx.commit().await.unwrap();
//! let again = tx.commit().await;
//! # }
//! ```
//!
//! ```compile_fail,E0382
//! # fn wrong(committed: countersign_producer::Committed) {
//! committed.publish();
//! committed.publish();
//! # }
//! ```
//!
//! and an upstream without Postgres cannot declare something committed before the broker holds the
//! check.
//!
//! ```compile_fail,E0599
//! # fn wrong(armed: countersign_producer::Armed) {
//! armed.committed().publish();
//! # }
//! ```
//!
//! The other half is [`upstream`] (or [`upstream_without_store`]): the gRPC service that the callback
//! service asks to send again, with a [`MessageSource`] that finds the message in your own data.
//! Beside it runs a [`Sweeper`], for the day when the broker loses what it had promised to keep.

/// From a message to its publish: arm the check, enlist in the transaction, commit, publish. Each step
/// returns the value that has the next one.
mod send;

/// From `RequestResend` to its answer: look the id up, decide by what is recorded, publish again.
mod answer;

/// From `countersign.enlisted` to fresh checks, for what the broker lost with its check.
mod sweep;

// All SQL, and the plain values that it reads and writes.
mod envelope;
mod isolation;
mod record;
mod sql;

// The caller's side: messages, settings, sources and errors.
mod error;
mod message;
mod settings;
mod source;

mod clock;
mod prepare;
mod stored;

pub use answer::service::{UpstreamServer, UpstreamService, upstream, upstream_without_store};
pub use countersign_amqp::{Address, LinkState};
pub use countersign_postgres::{DatabaseUrl, InvalidDatabaseUrl, PoolSettings, connect, migrate};
pub use countersign_protocol::check::MAX_CONSUMERS;
pub use countersign_protocol::grpc::DESCRIPTOR;
pub use countersign_protocol::topology::ExchangeKind;
pub use countersign_protocol::{DatabaseId, HeaderValue, MessageId, Name, Tier, Token};
pub use countersign_retry::Pulse;
pub use error::{Error, ErrorKind};
pub use isolation::Isolation;
pub use message::{InvalidHeader, Message};
pub use prepare::prepare;
pub use send::armed::{Armed, Held};
pub use send::committed::Committed;
pub use send::enlist::Enlisted;
pub use send::publisher::Publisher;
pub use settings::ProducerSettings;
pub use source::{Found, MessageSource, SourceError};
pub use stored::StoredMessages;
pub use sweep::callback::{CallbackAddress, InvalidCallback};
pub use sweep::{SweepSettings, Sweeper};

//! The way to RabbitMQ: the only crate that knows the client library.
//!
//! A [`Connection`] is supervised: it is built anew whenever anything about it fails, with its
//! topology declared again, and each such life of it is an *epoch*. On connections stand a
//! [`Publisher`], whose every message gets its own [`PublishOutcome`]; a [`Batcher`], which lets entries
//! share messages; and a [`Consumer`] with its [`Acks`] and its [`Gauge`].
//!
//! Publish and consume on separate connections: a broker alarm stops *all* writes of a connection
//! that publishes, its acks too (<https://www.rabbitmq.com/docs/alarms>).
//!
//! ```no_run
//! use countersign_amqp::{Connection, Outgoing, Properties, Publisher, PublisherSettings, PublishOutcome};
//! use countersign_protocol::topology::{ExchangeKind, Topology};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let topology = Topology::default().with_exchange("orders", ExchangeKind::Topic);
//! let connection = Connection::start("amqp://localhost".parse()?, "orders publish", topology);
//! connection.ready().await;
//! let publisher = Publisher::start(&connection, PublisherSettings::default());
//! let message = Outgoing {
//!     exchange: "orders".to_owned(),
//!     key: "order.placed".to_owned(),
//!     properties: Properties::default(),
//!     body: "{}".into(),
//! };
//! match publisher.publish(message)?.await {
//!     PublishOutcome::Routed => {}
//!     PublishOutcome::Unroutable { why } => panic!("no queue is bound for it: {why}"),
//!     PublishOutcome::Refused => panic!("a queue is full"),
//!     PublishOutcome::Unknown { why } => panic!("publish it again with the same id: {why}"),
//! }
//! # Ok(())
//! # }
//! ```

mod connection;

mod publish;

mod consume;

mod error;

pub use connection::Connection;
pub use connection::address::{Address, InvalidAddress};
pub use connection::link::LinkState;
pub use connection::lookup::NotLookedUp;
pub use consume::acks::Acks;
pub use consume::browser::{BrowseError, Browsed, Browser, DeadLetter};
pub use consume::delivery::{Delivery, DeliveryTag};
pub use consume::depth::{NotCounted, QueueCount};
pub use consume::gauge::{Gauge, GaugeReading, NotRead, Session};
pub use consume::{Consumer, Subscription};
pub use publish::batcher::{Batcher, BatcherSettings, OnFailure};
pub use publish::message::{AsReceived, Outgoing, Properties, header_bytes, header_problem};
pub use publish::outcome::{NotTaken, Pending, PublishOutcome};
pub use publish::{Publisher, PublisherSettings};

//! Talking to RabbitMQ: the only crate that knows the client library.
//!
//! A [`Connection`] is supervised: it is built anew whenever anything about it fails, with its
//! topology declared again, and each such life of it is an *epoch*. On connections stand a
//! [`Publisher`], whose every message gets its own [`Verdict`]; a [`Batcher`], which lets entries
//! share messages; and a [`Consumer`] with its [`Acks`].
//!
//! Publish and consume on separate connections: a broker alarm stops *all* writes of a connection
//! that publishes, its acks too (<https://www.rabbitmq.com/docs/alarms>).
//!
//! ```no_run
//! use countersign_amqp::{Connection, Outgoing, Properties, Publisher, PublisherSettings, Verdict};
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
//!     Verdict::Routed => {}
//!     Verdict::Unroutable { why } => panic!("no queue is bound for it: {why}"),
//!     Verdict::Refused => panic!("a queue is full"),
//!     Verdict::Unknown { why } => panic!("publish it again with the same id: {why}"),
//! }
//! # Ok(())
//! # }
//! ```

mod address;

mod link;

mod connection;

mod supervisor;

mod epoch;

mod transport;

mod declare;

mod backoff;

mod complaint;

mod message;

mod verdict;

mod publisher;

mod waiting;

mod flight;

mod judge;

mod batcher;

mod consumer;

mod browser;

mod delivery;

mod acks;

mod ack_window;

mod ready;

mod error;

pub use acks::Acks;
pub use address::{Address, InvalidAddress};
pub use batcher::{Batcher, BatcherSettings, OnFailure};
pub use browser::{BrowseError, Browsed, Browser, DeadLetter};
pub use connection::Connection;
pub use consumer::{Consumer, Subscription};
pub use delivery::{Delivery, DeliveryTag};
pub use link::LinkState;
pub use message::{Outgoing, Properties};
pub use publisher::{Publisher, PublisherSettings};
pub use ready::NotCounted;
pub use verdict::{NotTaken, Pending, Verdict};

//! Private RabbitMQ and Postgres servers in a temporary folder, for the demo, tests and benchmarks.
//!
//! A test asks for a vhost and a database of its own:
//!
//! ```no_run
//! # async fn test() {
//! let vhost = countersign_testbed::vhost().await;
//! let database = countersign_testbed::database().await;
//! # }
//! ```
//!
//! The servers are shared by everything under one `countersign-testbed run -- …`; without that,
//! each process starts its own once. A test that kills servers starts its own [`Broker`] and
//! [`Postgres`].
//!
//! The servers die with the process that started them, however it ends; see [`Folder`].

// The servers, and a test's own corner of them.
mod broker;
mod database;
mod postgres;
mod queues;
mod servers;
mod vhost;

// The programs under test, and what stands between them and their servers.
mod proxy;
mod service;

// Waits, counts, and ids of any age.
mod audit;
mod clock;
mod deadlines;
mod eventually;
mod ids;
mod rest;

// The parts beneath: processes that die with the run, folders, ports.
mod folder;
mod port;
mod process;
mod sweeper;

pub use audit::{Audit, Books, Lost, Order, Overdue};
pub use broker::{Broker, BrokerAddress, BrokerSettings};
pub use clock::Clock;
pub use countersign_management::{Management, Method};
pub use database::Database;
pub use deadlines::{HEALED, SOON, in_time, within};
pub use eventually::{Look, counts, eventually};
pub use folder::Folder;
pub use ids::{id_at, id_of_age};
pub use port::Port;
pub use postgres::{Postgres, PostgresAddress, PostgresSettings};
pub use process::{Launch, Process, Signal};
pub use proxy::{Conduct, Proxy, Way};
pub use queues::{Depth, Queue, Queues};
pub use rest::Rest;
pub use servers::Servers;
pub use service::{Service, program};
pub use vhost::{Peeked, Vhost};

/// A vhost of the test's own, on the shared broker.
///
/// # Panics
/// If there is no broker and none can be started.
pub async fn vhost() -> Vhost {
    let vhost = async { Vhost::create(Servers::shared().await?.broker()).await };
    vhost.await.unwrap_or_else(|error: anyhow::Error| panic!("no vhost: {error:#}"))
}

/// An empty database of the test's own, on the shared Postgres.
///
/// # Panics
/// If there is no Postgres and none can be started.
pub async fn database() -> Database {
    let database = async { Database::create(Servers::shared().await?.postgres()).await };
    database.await.unwrap_or_else(|error: anyhow::Error| panic!("no database: {error:#}"))
}

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
//! and gets them on servers shared by everything under one `countersign-testbed run -- …`; without
//! that, they are started once per process. A test that kills servers starts its own [`Broker`]
//! and [`Postgres`].
//!
//! Everything dies with the process that started it, however that ends; see [`Folder`].

mod servers;

mod vhost;

mod database;

mod eventually;

mod broker;

mod postgres;

mod management;

mod service;

mod proxy;

mod folder;

mod process;

mod port;

mod sweeper;

pub use broker::{Broker, BrokerAddress, BrokerSettings};
pub use database::Database;
pub use eventually::{Look, eventually};
pub use folder::Folder;
pub use management::Management;
pub use port::Port;
pub use postgres::{Postgres, PostgresAddress, PostgresSettings};
pub use process::{Launch, Process, Signal};
pub use proxy::{Conduct, Proxy};
pub use servers::Servers;
pub use service::Service;
pub use vhost::{Depth, Peeked, Vhost};

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

//! Reaching the broker as a guest: the CLI declares nothing there.

use anyhow::{Context as _, bail};
use clap::Args;
use countersign_amqp::{Address, Connection, LinkState};
use countersign_protocol::Topology;

/// `--amqp-url`, of commands that need the broker.
#[derive(Debug, Args)]
pub(crate) struct Broker {
    /// RabbitMQ's address
    #[arg(
        long = "amqp-url",
        env = "COUNTERSIGN_AMQP_URL",
        hide_env_values = true,
        default_value = "amqp://guest:guest@localhost:5672/%2f",
        value_name = "URL"
    )]
    address: Address,
}

impl Broker {
    /// A new connection, shown by this name in RabbitMQ's management.
    ///
    /// # Errors
    /// As [`connect`].
    pub(crate) async fn connect(&self, name: &str) -> anyhow::Result<Connection> {
        connect(&self.address, name).await
    }
}

/// Tries once to connect: a person waits.
///
/// # Errors
/// When the broker is away or refuses the login.
pub(crate) async fn connect(address: &Address, name: &str) -> anyhow::Result<Connection> {
    let connection = Connection::start(address.clone(), name, Topology::default());
    let mut state = connection.state();
    state.changed().await.context("the connection's task is gone")?;
    let now = state.borrow_and_update().clone();
    match now {
        LinkState::Up | LinkState::Blocked { .. } => Ok(connection),
        LinkState::Connecting { why } => bail!(
            "the broker at {address} cannot be reached ({why}): is it up, and are the user and password in --amqp-url right?"
        ),
        LinkState::Closed => bail!("the connection to {address} was closed"),
    }
}

//! Connecting to the broker, as a guest: nothing is declared.

use anyhow::{Context as _, bail};
use countersign_amqp::{Address, Connection, LinkState};
use countersign_protocol::Topology;

/// Connects, or says at the first try why that does not work.
///
/// # Errors
/// When the broker is away or lets nobody in.
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

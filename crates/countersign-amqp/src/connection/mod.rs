//! A supervised connection.

pub(crate) mod address;

pub(crate) mod link;

pub(crate) mod supervisor;

pub(crate) mod epoch;

pub(crate) mod transport;

pub(crate) mod declare;

use std::sync::Arc;

use countersign_protocol::Topology;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::connection::address::Address;
use crate::connection::epoch::Epochs;
use crate::connection::link::LinkState;
use crate::connection::supervisor::Supervisor;

/// A connection that is built anew whenever it fails. A clone is the same connection.
///
/// It is closed by [`close`](Self::close), or when the last clone is dropped and nothing that was
/// started on it is left.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    state: watch::Receiver<LinkState>,
    epochs: Epochs,
    closing: CancellationToken,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl Connection {
    /// Starts connecting, in a task of its own, and returns at once.
    ///
    /// `name` shows in RabbitMQ's list of connections. `topology` is declared whenever the
    /// connection is built anew; while that is refused, the connection is not up.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(address: Address, name: &str, topology: Topology) -> Self {
        let closing = CancellationToken::new();
        let starting = LinkState::Connecting { why: "not connected yet".to_owned() };
        let (state, seen) = watch::channel(starting);
        let (epochs, current) = watch::channel(None);
        let name = name.to_owned();
        let supervisor =
            Supervisor { address, name, topology, state, epochs, closing: closing.clone() };
        tokio::spawn(supervisor.run());
        Self(Arc::new(Handle { state: seen, epochs: current, closing }))
    }

    /// Its state, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.0.state.clone()
    }

    /// Waits until it is up, or closed for good. Meanwhile the log says, at growing intervals, who
    /// is waited for and why.
    ///
    /// # Cancel safety
    /// It can be dropped at any time.
    pub async fn ready(&self) {
        let mut state = self.state();
        // An error means that the supervisor is gone, and with it the runtime.
        let _ = state.wait_for(|s| matches!(s, LinkState::Up | LinkState::Closed)).await;
    }

    /// Closes it for good. Close what was started on it first: a
    /// [`Publisher`](crate::Publisher::close) settles what it has taken, a
    /// [`Consumer`](crate::Consumer::close) sends its acks.
    ///
    /// # Cancel safety
    /// It is closed even if this is dropped.
    pub async fn close(&self) {
        self.0.closing.cancel();
        let mut state = self.state();
        let _ = state.wait_for(|s| matches!(s, LinkState::Closed)).await;
    }

    pub(crate) fn epochs(&self) -> Epochs {
        self.0.epochs.clone()
    }
}

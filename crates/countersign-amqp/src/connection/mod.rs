//! A supervised connection.

pub(crate) mod address;

pub(crate) mod link;

pub(crate) mod supervisor;

pub(crate) mod epoch;

pub(crate) mod transport;

pub(crate) mod declare;

pub(crate) mod lookup;

use std::sync::Arc;

use countersign_protocol::Topology;
use countersign_retry::Pulse;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::connection::address::Address;
use crate::connection::epoch::Epochs;
use crate::connection::link::LinkState;
use crate::connection::supervisor::Supervisor;

/// A connection that its supervisor builds anew whenever it fails. A clone is the same connection.
///
/// The connection ends with [`close`](Self::close), or when the last clone is dropped and no
/// publisher, batcher or consumer on it is left.
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
    /// Starts to connect in a task of its own, and returns at once.
    ///
    /// RabbitMQ's list of connections shows `name`. The supervisor declares `topology` each time it
    /// builds the connection; while the broker refuses it, the connection is not up.
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

    /// The connection's state, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.0.state.clone()
    }

    /// Waits until the connection is up, or closed for good. Meanwhile the log names the broker and
    /// the reason, at growing intervals.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn ready(&self) {
        let mut state = self.state();
        // An error means that the supervisor has ended, and with it the runtime.
        let _ = state.wait_for(|s| matches!(s, LinkState::Up | LinkState::Closed)).await;
    }

    /// Feeds a party's readiness until the connection is closed: while it is not up, to reach the broker
    /// counts as in hand. The future does not keep the connection open.
    #[must_use = "it is fed as long as the future runs"]
    pub fn feed(&self, pulse: &Pulse) -> impl Future<Output = ()> + Send + use<> {
        let (mut state, pulse) = (self.state(), pulse.clone());
        async move {
            let mut away = None;
            loop {
                match &*state.borrow_and_update() {
                    LinkState::Closed => return,
                    LinkState::Up => away = None,
                    _ if away.is_none() => away = Some(pulse.begin("reach the broker")),
                    _ => {}
                }
                if state.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Closes the connection for good. Close its users first: a
    /// [`Publisher`](crate::Publisher::close) settles the messages it has taken, a
    /// [`Consumer`](crate::Consumer::close) sends its acks.
    ///
    /// # Cancel safety
    /// The connection closes even if this future is dropped.
    pub async fn close(&self) {
        self.0.closing.cancel();
        let mut state = self.state();
        let _ = state.wait_for(|s| matches!(s, LinkState::Closed)).await;
    }

    pub(crate) fn epochs(&self) -> Epochs {
        self.0.epochs.clone()
    }
}

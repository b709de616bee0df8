//! How many orders callers may have placed by now, and how many they have: here the director and
//! the callers meet.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// The valve before the placing of orders.
#[derive(Debug)]
pub(crate) struct Flow {
    gate: watch::Sender<Gate>,
    accepted: watch::Sender<u64>,
    refused: AtomicU64,
}

/// The orders that callers may place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gate {
    /// Orders up to this number, counted from 0, this one not included.
    pub(crate) limit: u64,
    /// As fast as possible, whatever the rate.
    pub(crate) rush: bool,
}

impl Flow {
    /// Shut.
    pub(crate) fn new() -> Self {
        Self {
            gate: watch::Sender::new(Gate::default()),
            accepted: watch::Sender::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Lets orders through up to `limit`, at their rate.
    pub(crate) fn open(&self, limit: u64) {
        self.gate.send_replace(Gate { limit, rush: false });
    }

    /// Lets orders through up to `limit`, as fast as possible.
    pub(crate) fn rush(&self, limit: u64) {
        self.gate.send_replace(Gate { limit, rush: true });
    }

    /// The orders that callers may place, now and from now on.
    pub(crate) fn gate(&self) -> watch::Receiver<Gate> {
        self.gate.subscribe()
    }

    /// A caller was told that its order is placed.
    pub(crate) fn accept(&self) {
        self.accepted.send_modify(|accepted| *accepted += 1);
    }

    /// A caller was refused, or got no answer.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many callers were told that their order is placed. The database may hold more committed
    /// orders.
    pub(crate) fn accepted(&self) -> u64 {
        *self.accepted.borrow()
    }

    /// How many callers were refused, or got no answer.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until this many orders are accepted.
    pub(crate) async fn reached(&self, accepted: u64) {
        // The channel cannot be closed: `self` holds the sending end.
        let _ = self.accepted.subscribe().wait_for(|&n| n >= accepted).await;
    }
}

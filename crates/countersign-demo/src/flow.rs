//! How many orders may be placed by now, and how many are: here the director and the callers meet.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// The valve before the placing of orders.
#[derive(Debug)]
pub(crate) struct Flow {
    gate: watch::Sender<Gate>,
    accepted: watch::Sender<u64>,
    refused: AtomicU64,
}

/// What may be placed.
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

    /// What may be placed, now and from now on.
    pub(crate) fn gate(&self) -> watch::Receiver<Gate> {
        self.gate.subscribe()
    }

    /// An order was placed, and its caller told so.
    pub(crate) fn accept(&self) {
        self.accepted.send_modify(|accepted| *accepted += 1);
    }

    /// A caller was told no, or nothing.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many callers were told that their order is placed. What is committed stands in the
    /// database, and may be more.
    pub(crate) fn accepted(&self) -> u64 {
        *self.accepted.borrow()
    }

    /// How many callers were told no, or nothing.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until so many orders are accepted.
    pub(crate) async fn reached(&self, accepted: u64) {
        // It cannot be closed: `self` holds the sending end.
        let _ = self.accepted.subscribe().wait_for(|&n| n >= accepted).await;
    }
}

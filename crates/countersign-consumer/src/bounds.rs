//! How much a consumer does and holds at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many handlers run at once, and how many deliveries are held.
pub(crate) struct Bounds {
    /// One permit for each handler that may run.
    slots: Arc<Semaphore>,
    /// One permit for each delivery that may be held. The broker's prefetch alone does not bound that:
    /// after a reconnect the broker knows nothing of the deliveries that are still held from before.
    places: Arc<Semaphore>,
    batch: usize,
}

/// Room for a handler and for the deliveries that it may take.
pub(crate) struct Room {
    pub(crate) slot: OwnedSemaphorePermit,
    pub(crate) places: OwnedSemaphorePermit,
}

impl Bounds {
    pub(crate) fn new(concurrency: usize, prefetch: u16, batch: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(concurrency)),
            places: Arc::new(Semaphore::new(prefetch.into())),
            batch,
        }
    }

    /// Waits for a slot and for at least one place. One task alone calls this, so no other task takes the
    /// places that it sees.
    pub(crate) async fn room(&self) -> Room {
        const OPEN: &str = "the semaphores are never closed";
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect(OPEN);
        let mut places = Arc::clone(&self.places).acquire_owned().await.expect(OPEN);
        let more = self.places.available_permits().min(self.batch.saturating_sub(1));
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if let Ok(more) = Arc::clone(&self.places).try_acquire_many_owned(more) {
            places.merge(more);
        }
        Room { slot, places }
    }
}

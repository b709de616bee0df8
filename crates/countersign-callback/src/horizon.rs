//! Which ids can be taken now.

use std::time::Duration;

use countersign_protocol::{UnixMillis, Window};
use tokio::sync::watch;
use tokio::time::Instant;

/// The ids that the ledger has room for, at any time.
#[derive(Clone, Debug)]
pub(crate) struct Horizons {
    retention: Duration,
    clock: watch::Receiver<Reading>,
    partitions: [watch::Receiver<Window>; 2],
}

/// What the database's clock said, and when that was on the monotonic one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    said: UnixMillis,
    at: Instant,
}

impl Reading {
    /// The database's clock says this now.
    #[must_use]
    pub(crate) fn taken(said: UnixMillis) -> Self {
        Self { said, at: Instant::now() }
    }

    fn now(self) -> UnixMillis {
        self.said.after(self.at.elapsed())
    }
}

impl Horizons {
    pub(crate) fn new(
        retention: Duration,
        clock: watch::Receiver<Reading>,
        partitions: [watch::Receiver<Window>; 2],
    ) -> Self {
        Self { retention, clock, partitions }
    }

    /// The window at this moment, on the database's clock: the partitions are made by it too.
    ///
    /// Not further back than the oldest partition. After the retention was raised there are days
    /// about which nothing is known any more, and "not confirmed" would be a wrong word for them.
    #[must_use]
    pub(crate) fn now(&self) -> Window {
        let kept = Window::at(self.clock.borrow().now(), self.retention);
        let oldest_partition = self.partitions.iter().map(|window| window.borrow().oldest).max();
        let oldest = oldest_partition.map_or(kept.oldest, |oldest| oldest.max(kept.oldest));
        Window { oldest, ..kept }
    }
}

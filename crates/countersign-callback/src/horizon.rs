//! Which ids can be taken now.

use std::time::Duration;

use countersign_postgres::Span;
use countersign_protocol::{Horizon, UnixMillis};
use tokio::sync::watch;
use tokio::time::Instant;

/// The ids that the ledger has room for, at any time.
#[derive(Clone, Debug)]
pub(crate) struct Horizons {
    retention: Duration,
    clock: watch::Receiver<Reading>,
    spans: [watch::Receiver<Span>; 2],
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
        spans: [watch::Receiver<Span>; 2],
    ) -> Self {
        Self { retention, clock, spans }
    }

    /// The horizon at this moment, on the database's clock: the partitions are made by it too.
    ///
    /// Not further back than the oldest partition. After the retention was raised there are days
    /// about which nothing is known any more, and "not confirmed" would be a wrong word for them.
    #[must_use]
    pub(crate) fn now(&self) -> Horizon {
        let now = self.clock.borrow().now();
        let oldest = self.spans.iter().map(|span| span.borrow().oldest).max();
        let known = oldest.map_or(self.retention, |oldest| now.since(oldest));
        Horizon { now, retention: self.retention.min(known) }
    }
}

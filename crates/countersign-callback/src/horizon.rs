//! The window of message ids that this replica takes in now.

use std::time::Duration;

use countersign_postgres::{ClocksDisagree, Places, agree};
use countersign_protocol::{UnixMillis, Window};
use tokio::sync::watch;
use tokio::time::Instant;

/// Tells the window of message ids that the ledger has partitions for. A clone tells the same.
#[derive(Clone, Debug)]
pub(crate) struct Horizons {
    retention: Duration,
    clock: watch::Receiver<Reading>,
    partitions: [watch::Receiver<Places>; 2],
}

/// A reading of the database's clock, and when this process took it on its monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    said: UnixMillis,
    at: Instant,
}

impl Reading {
    /// A reading of the database's clock that was just taken.
    #[must_use]
    pub(crate) fn taken(said: UnixMillis) -> Self {
        Self { said, at: Instant::now() }
    }

    fn now(self) -> UnixMillis {
        self.said.after(self.at.elapsed())
    }
}

impl Horizons {
    /// The window is cut to `retention` and to the oldest of these partitions.
    pub(crate) fn new(
        retention: Duration,
        clock: watch::Receiver<Reading>,
        partitions: [watch::Receiver<Places>; 2],
    ) -> Self {
        Self { retention, clock, partitions }
    }

    /// The window at this moment, on the database's clock: the partitions are made by it too.
    ///
    /// # Errors
    /// While the database's clock and this machine's differ by hours: by a wrong clock what is right would
    /// be refused, and nobody would ask for it again.
    ///
    /// The window reaches no further back than the oldest partition. After an operator has raised the
    /// retention there are days whose confirms are deleted already, and "not confirmed" would be wrong
    /// for their messages.
    pub(crate) fn now(&self) -> Result<Window, ClocksDisagree> {
        let now = self.clock.borrow().now();
        agree(now)?;
        let kept = Window::at(now, self.retention);
        let mut oldest = kept.oldest;
        for places in &self.partitions {
            let window = (*places.borrow())?;
            oldest = oldest.max(window.oldest);
        }
        Ok(Window { oldest, ..kept })
    }
}

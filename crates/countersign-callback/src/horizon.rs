//! The window of message ids that this replica takes in now.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_protocol::{UnixMillis, Window};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::rules::verdict::in_words;

/// Tells the window of message ids that the ledger has partitions for. A clone tells the same.
#[derive(Clone, Debug)]
pub(crate) struct Horizons {
    retention: Duration,
    clock: watch::Receiver<Reading>,
    partitions: [watch::Receiver<Window>; 2],
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
        partitions: [watch::Receiver<Window>; 2],
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
        agree(now, this_machines_clock())?;
        let kept = Window::at(now, self.retention);
        let oldest_partition = self.partitions.iter().map(|window| window.borrow().oldest).max();
        let oldest = oldest_partition.map_or(kept.oldest, |oldest| oldest.max(kept.oldest));
        Ok(Window { oldest, ..kept })
    }
}

/// The database's clock and this machine's say different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the database's clock and this machine's differ by {}: set the wrong one right; until they agree nothing is taken in, and nothing is lost",
    in_words(*.by)
)]
pub(crate) struct ClocksDisagree {
    by: Duration,
}

/// Clocks that are kept by NTP differ by less than a second; a time zone taken for UTC makes an hour or
/// more.
const MOST_APART: Duration = Duration::from_secs(60 * 60);

fn agree(database: UnixMillis, machine: UnixMillis) -> Result<(), ClocksDisagree> {
    let by = database.since(machine).max(machine.since(database));
    if by > MOST_APART { Err(ClocksDisagree { by }) } else { Ok(()) }
}

#[expect(clippy::disallowed_methods, reason = "it is compared with the database's clock")]
fn this_machines_clock() -> UnixMillis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis::EPOCH.after(since_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_an_hour_and_no_more_either_way() {
        let moment = |s| UnixMillis::from_ms(1_795_231_234_567).after(Duration::from_secs(s));
        assert_eq!(agree(moment(0), moment(3_600)), Ok(()));
        assert_eq!(agree(moment(3_600), moment(0)), Ok(()));
        let by = Duration::from_secs(3_601);
        assert_eq!(agree(moment(0), moment(3_601)), Err(ClocksDisagree { by }));
        assert_eq!(agree(moment(3_601), moment(0)), Err(ClocksDisagree { by }));
        let years = agree(UnixMillis::EPOCH, moment(0)).unwrap_err().to_string();
        assert!(years.contains("differ by 56years"), "{years}");
    }
}

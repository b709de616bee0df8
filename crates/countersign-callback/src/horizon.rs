//! The window of message ids that this replica takes in now.

use std::time::Duration;

use countersign_postgres::{ClocksDisagree, Places, agree};
use countersign_protocol::{UnixMillis, Window};
use countersign_retry::Pulse;
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

    /// What the clock says now, if it goes on as it went then.
    #[must_use]
    pub(crate) fn now(self) -> UnixMillis {
        self.said.after(self.at.elapsed())
    }
}

/// How often the clocks are compared for the readiness. They are compared whenever something is taken
/// in, too.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

impl Horizons {
    /// The window is cut to `retention` and to the oldest of these partitions.
    pub(crate) fn new(
        retention: Duration,
        clock: watch::Receiver<Reading>,
        partitions: [watch::Receiver<Places>; 2],
    ) -> Self {
        Self { retention, clock, partitions }
    }

    /// Feeds the service's readiness, as long as the future runs: clocks that disagree keep the service
    /// from its work also when nothing comes in.
    pub(crate) async fn feed(self, pulse: Pulse) {
        let mut disagree = None;
        loop {
            match self.now() {
                Ok(_) => disagree = None,
                Err(why) if disagree.is_none() => {
                    disagree = Some(pulse.begin(format!("tell which messages are too old: {why}")));
                }
                Err(_) => {}
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test]
    async fn clocks_that_disagree_are_told_to_the_readiness_until_they_agree() {
        const SOON: Duration = Duration::from_secs(20);
        let machine = countersign_protocol::MessageId::generate().time();
        let (clock, read) = watch::channel(Reading::taken(machine));
        let (_, places) = watch::channel(Ok(Window::ALL));
        let (pulse, horizons) = (Pulse::new(), Horizons::new(DAY, read, [places.clone(), places]));
        let problem = async |is_there: bool| {
            let look = async {
                while pulse.stuck(Duration::ZERO).is_some() != is_there {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(SOON, look).await.expect("in time");
        };
        let told = async {
            assert_eq!(pulse.stuck(Duration::ZERO), None);
            clock.send_replace(Reading::taken(machine.after(2 * DAY)));
            problem(true).await;
            clock.send_replace(Reading::taken(machine));
            problem(false).await;
        };
        tokio::select! {
            () = horizons.feed(pulse.clone()) => unreachable!("it feeds for ever"),
            () = told => {}
        }
    }
}

//! What becomes of checks, counted: in memory while nothing is overdue, since a confirmed check
//! writes nothing, and written down about once a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_protocol::Name;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::ledger::{Ledger, Tallies, merge};
use crate::log;
use crate::rules::budget::{Pacing, decide};

/// How often counts are written down, and storms looked at.
const EACH: Duration = Duration::from_secs(1);

/// Counts that are not written down yet. What dies with a process is not missed.
#[derive(Clone, Debug, Default)]
pub(crate) struct NotWritten {
    tallies: Arc<Mutex<Tallies>>,
}

impl NotWritten {
    /// Some more.
    pub(crate) fn add(&self, more: Tallies) {
        merge(&mut self.lock(), more);
    }

    /// All of them, to be written down.
    #[must_use = "they are counted nowhere else"]
    pub(crate) fn take(&self) -> Tallies {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Tallies> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes counts down, and notices that a storm is over when nothing is left to ask for, until
/// `shutdown`.
pub(crate) async fn keep(
    not_written: NotWritten,
    ledger: Ledger,
    pacing: Pacing,
    shutdown: CancellationToken,
) {
    while shutdown.run_until_cancelled(tokio::time::sleep(EACH)).await.is_some() {
        let tallies = not_written.take();
        if let Err(error) = ledger.tally(&tallies).await {
            // Whoever needs the database for more than counts says that it is away.
            debug!(%error, "cannot write down what became of checks: trying again");
            not_written.add(tallies);
            continue;
        }
        if let Err(error) = look_at_storms(&ledger, &pacing).await {
            debug!(%error, "cannot look whether a storm is over: trying again");
        }
    }
}

async fn look_at_storms(ledger: &Ledger, pacing: &Pacing) -> Result<(), sqlx::Error> {
    let storms: Vec<Name> = ledger.storms().await?;
    if storms.is_empty() {
        return Ok(());
    }
    let mut changes = Vec::new();
    ledger
        .repace(&storms, pacing, |upstream, pace, scene| {
            let decision = decide(pace, scene, pacing);
            changes.extend(decision.change.map(|change| (upstream.clone(), change)));
            decision.pace
        })
        .await?;
    changes.iter().for_each(|(upstream, change)| log::storm(upstream, *change));
    Ok(())
}

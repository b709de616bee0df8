//! Checks that came due, counted for all replicas together. A confirmed check writes nothing to the
//! ledger, so its count stays in memory first; the counts go to the ledger about once a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_protocol::Name;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::ledger::{Ledger, Tallies, merge};
use crate::log;
use crate::rules::budget::{Pacing, decide};

/// How often counts go to the ledger, and how late a replica notices the end of a storm when no row is
/// due any more. A storm is decided on over a minute, so a second is soon enough.
const EACH: Duration = Duration::from_secs(1);

/// Counts of this replica that the ledger does not have yet. A clone is the same. Counts that die with
/// the process are not missed: they are a second of a minute's sample.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentChecks {
    tallies: Arc<Mutex<Tallies>>,
}

impl RecentChecks {
    /// Adds these counts.
    pub(crate) fn add(&self, more: Tallies) {
        merge(&mut self.lock(), more);
    }

    /// Takes all counts out, to be written.
    #[must_use = "they are counted nowhere else"]
    pub(crate) fn take(&self) -> Tallies {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Tallies> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the ledger's counts up to date.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// The counts of this replica.
    pub(crate) recent_checks: RecentChecks,
    /// The database that adds up the counts of all replicas.
    pub(crate) ledger: Ledger,
    /// From which share of missing messages on there is a storm.
    pub(crate) pacing: Pacing,
}

impl Keeper {
    /// Writes counts, and ends storms in which no row is due any more, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(EACH)).await.is_some() {
            let tallies = self.recent_checks.take();
            if let Err(error) = self.ledger.tally(&tallies).await {
                // A database that is away is a warning of the workers that cannot go on without it.
                debug!(%error, "cannot write the counts of checks: this replica tries again");
                self.recent_checks.add(tallies);
                continue;
            }
            if let Err(error) = self.end_storms().await {
                debug!(%error, "cannot look whether a storm is over: this replica tries again");
            }
        }
    }

    async fn end_storms(&self) -> Result<(), sqlx::Error> {
        let storms: Vec<Name> = self.ledger.storms().await?;
        if storms.is_empty() {
            return Ok(());
        }
        let mut changes = Vec::new();
        self.ledger
            .repace(&storms, &self.pacing, |upstream, pace, scene| {
                let decision = decide(pace, scene, &self.pacing);
                changes.extend(decision.change.map(|change| (upstream.clone(), change)));
                decision.pace
            })
            .await?;
        changes.iter().for_each(|(upstream, change)| log::storm(upstream, *change));
        Ok(())
    }
}

//! Upkeep of the ledger: makes partitions ahead and drops old ones, reads the database's clock, prunes
//! rows that were closed long ago.

use std::future::Future;
use std::time::Duration;

use countersign_postgres::{Partitions, Places, agree};
use countersign_retry::{Retry, Stopped};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::horizon::{Horizons, Reading};
use crate::ledger::Ledger;
use crate::workers::Workers;

/// How often a replica prunes rows and reads the database's clock. Rows that are pruned a minute late do
/// no harm, and a clock drifts by a few milliseconds in that time.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(60);

/// How many closed rows one statement deletes: few enough that it takes milliseconds.
const PRUNED_AT_ONCE: u16 = 1_000;

/// How long the ledger keeps markers that have not come back: longer than any shard lags behind, since a
/// marker that comes back and is not in the ledger proves nothing about its shard.
const MARKERS_KEPT: Duration = Duration::from_secs(60 * 60);

/// How long the ledger keeps a marker that has come back: the broker may deliver it once more when the
/// replica dies before its ack, and a marker that the ledger does not know is taken for a forged one.
const RETURNED_MARKERS_KEPT: Duration = Duration::from_secs(60);

/// Makes the partitions, waiting for the database as long as it takes, and starts the workers that keep
/// them from then on.
///
/// # Errors
/// When the process has to stop first.
pub(crate) async fn start(
    ledger: &Ledger,
    retention: Duration,
    shutdown: &CancellationToken,
    workers: &mut Workers,
) -> Result<Horizons, Stopped> {
    let [confirmation, consumer_report, rolled_back] = ledger.partitioned();
    let clock = until_it_works("read the database's clock", || ledger.now(), shutdown).await?;
    let (clock, read) = watch::channel(Reading::taken(clock));
    let partitions = [
        keep(confirmation, ledger, shutdown, workers).await?,
        keep(consumer_report, ledger, shutdown, workers).await?,
    ];
    keep(rolled_back, ledger, shutdown, workers).await?;
    let (ledger, pulse) = (ledger.clone(), ledger.pulse().clone());
    workers.spawn("upkeep of the ledger", |stop| async move {
        stop.run_until_cancelled(rounds(ledger, clock)).await;
    });
    let horizons = Horizons::new(retention, read, partitions);
    let feeding = horizons.clone().feed(pulse);
    workers.spawn("comparing clocks", |stop| async move {
        stop.run_until_cancelled(feeding).await;
    });
    Ok(horizons)
}

/// Makes missing partitions now. Returns whether all of them are there.
pub(crate) async fn make_partitions(ledger: &Ledger) -> bool {
    for partitions in ledger.partitioned() {
        if let Err(error) = partitions.maintain(ledger.pool()).await {
            warn!(%error, "partitions could not be made");
            return false;
        }
    }
    true
}

async fn keep(
    partitions: &Partitions,
    ledger: &Ledger,
    shutdown: &CancellationToken,
    workers: &mut Workers,
) -> Result<watch::Receiver<Places>, Stopped> {
    let made = || partitions.maintain(ledger.pool());
    let places = until_it_works("make partitions", made, shutdown).await?;
    let (sender, receiver) = watch::channel(places);
    let (partitions, pool) = (partitions.clone(), ledger.pool().clone());
    workers.spawn("keeping partitions", |stop| async move {
        partitions.keep(pool, stop, sender).await;
    });
    Ok(receiver)
}

async fn rounds(ledger: Ledger, clock: watch::Sender<Reading>) {
    loop {
        if let Err(error) = round(&ledger, &clock).await {
            warn!(%error, "upkeep of the ledger failed: this replica tries again in a minute");
        }
        tokio::time::sleep(BETWEEN_ROUNDS).await;
    }
}

async fn round(ledger: &Ledger, clock: &watch::Sender<Reading>) -> Result<(), sqlx::Error> {
    let now = ledger.now().await?;
    clock.send_replace(Reading::taken(now));
    if let Err(why) = agree(now) {
        // By a clock that is years ahead every closed row would be past the retention.
        warn!(%why, "upkeep prunes nothing");
        return Ok(());
    }
    ledger.prune_markers(now.before(RETURNED_MARKERS_KEPT), now.before(MARKERS_KEPT)).await?;
    ledger.prune_progress(now).await?;
    let mut pruned = 0;
    loop {
        let deleted = ledger.prune(now, PRUNED_AT_ONCE).await?;
        pruned += deleted;
        if deleted < u64::from(PRUNED_AT_ONCE) {
            break;
        }
    }
    if pruned > 0 {
        info!(rows = pruned, "pruned rows that were closed longer ago than the retention");
    }
    Ok(())
}

async fn until_it_works<T, F>(
    what: &'static str,
    mut action: impl FnMut() -> F,
    shutdown: &CancellationToken,
) -> Result<T, Stopped>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let mut retry = Retry::new(what);
    loop {
        match action().await {
            Ok(done) => {
                retry.worked();
                return Ok(done);
            }
            Err(error) => retry.wait(&error, shutdown).await?,
        }
    }
}

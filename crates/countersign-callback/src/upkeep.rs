//! What has to be done to the ledger from time to time: partitions made ahead and dropped, the clock
//! read, rows pruned that were closed long ago.

use std::future::Future;
use std::time::Duration;

use countersign_postgres::Partitions;
use countersign_protocol::Window;
use countersign_retry::{Retry, Stopped};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::horizon::{Horizons, Reading};
use crate::ledger::Ledger;

const BETWEEN_ROUNDS: Duration = Duration::from_secs(60);

/// How many closed rows are deleted at once, so that no statement takes long.
const PRUNED_AT_ONCE: u16 = 1_000;

/// How long markers are known that no watermark rests on.
const MARKERS_KEPT: Duration = Duration::from_secs(60 * 60);

/// Makes the partitions, waiting for the database as long as it takes, and keeps them from then on,
/// in tasks of their own.
///
/// # Errors
/// When the process has to stop first.
pub(crate) async fn start(
    ledger: &Ledger,
    retention: Duration,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<&'static str>,
) -> Result<Horizons, Stopped> {
    let [confirmation, consumer_report] = ledger.partitioned();
    let clock = until_it_works("read the database's clock", || ledger.now(), shutdown).await?;
    let (clock, read) = watch::channel(Reading::taken(clock));
    let partitions = [
        keep(confirmation, ledger, shutdown, tasks).await?,
        keep(consumer_report, ledger, shutdown, tasks).await?,
    ];
    keep(Ledger::rolled_back_partitions(), ledger, shutdown, tasks).await?;
    let (ledger, shutdown) = (ledger.clone(), shutdown.clone());
    tasks.spawn(async move {
        shutdown.run_until_cancelled(rounds(ledger, clock)).await;
        "upkeep"
    });
    Ok(Horizons::new(retention, read, partitions))
}

/// Makes missing partitions now. Says whether they are all there.
pub(crate) async fn make_partitions(ledger: &Ledger) -> bool {
    for partitions in ledger.partitioned().into_iter().chain([Ledger::rolled_back_partitions()]) {
        if let Err(error) = partitions.maintain(ledger.pool()).await {
            warn!(%error, "partitions could not be made");
            return false;
        }
    }
    true
}

async fn keep(
    partitions: Partitions,
    ledger: &Ledger,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<&'static str>,
) -> Result<watch::Receiver<Window>, Stopped> {
    let made = || partitions.maintain(ledger.pool());
    let window = until_it_works("make partitions", made, shutdown).await?;
    let (sender, receiver) = watch::channel(window);
    let (pool, shutdown) = (ledger.pool().clone(), shutdown.clone());
    tasks.spawn(async move {
        partitions.keep(pool, shutdown, sender).await;
        "partitions"
    });
    Ok(receiver)
}

/// Forever.
async fn rounds(ledger: Ledger, clock: watch::Sender<Reading>) {
    loop {
        if let Err(error) = round(&ledger, &clock).await {
            warn!(%error, "upkeep of the ledger has to wait");
        }
        tokio::time::sleep(BETWEEN_ROUNDS).await;
    }
}

async fn round(ledger: &Ledger, clock: &watch::Sender<Reading>) -> Result<(), sqlx::Error> {
    let now = ledger.now().await?;
    clock.send_replace(Reading::taken(now));
    ledger.prune_markers(now.before(MARKERS_KEPT)).await?;
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
        info!(rows = pruned, "pruned what was closed longer ago than the retention");
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

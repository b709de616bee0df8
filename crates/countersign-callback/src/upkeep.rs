//! Upkeep of the ledger: makes partitions ahead and drops old ones, reads the database's clock, prunes
//! rows that were closed long ago.

use std::future::Future;
use std::time::Duration;

use countersign_postgres::{Partitions, Places, agree};
use countersign_protocol::UnixMillis;
use countersign_retry::{Retry, Stopped};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::horizon::{Horizons, Reading};
use crate::ledger::Ledger;
use crate::settings::Config;
use crate::workers::Workers;

/// How often a replica prunes rows. Rows that are pruned a minute late do no harm.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(60);

/// How often a replica reads the database's clock: for so long it may act by a clock that has just become wrong.
const BETWEEN_READINGS: Duration = Duration::from_secs(5);

/// The longest pause of a row that is waiting by right: an hour, and a quarter of jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(75 * 60);

/// How far back the database's clock has to go to count as set back: more than two readings differ by because of a
/// slow answer.
const SET_BACK: Duration = Duration::from_secs(2);

/// How many closed rows one statement deletes: few enough that it takes milliseconds.
const PRUNED_AT_ONCE: u16 = 1_000;

/// How often the log warns of parked messages that will be forgotten.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60 * 60);

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
    config: &Config,
    shutdown: &CancellationToken,
    workers: &mut Workers,
) -> Result<Horizons, Stopped> {
    let (retention, parked_retention) = (config.retention, config.parked_retention);
    let resend_delay = config.policy.resend_delay;
    let [confirmation, consumer_report, rolled_back] = ledger.partitioned();
    let first = until_it_works("read the database's clock", || ledger.now(), shutdown).await?;
    let (clock, read) = watch::channel(Reading::taken(first));
    // The clock may have been set back while no replica ran.
    let take_back = || take_back_times(ledger, first, LONGEST_PAUSE);
    let to_mend = !until_it_works("mend times of the future", take_back, shutdown).await?;
    let partitions = [
        keep(confirmation, ledger, shutdown, workers).await?,
        keep(consumer_report, ledger, shutdown, workers).await?,
    ];
    keep(rolled_back, ledger, shutdown, workers).await?;
    let pulse = ledger.pulse().clone();
    let (reading, pruning) = (ledger.clone(), ledger.clone());
    workers.spawn("reading the database's clock", move |stop| async move {
        stop.run_until_cancelled(readings(reading, clock, resend_delay, to_mend)).await;
    });
    workers.spawn("upkeep of the ledger", |stop| async move {
        stop.run_until_cancelled(rounds(pruning, parked_retention)).await;
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

/// Reads the database's clock again and again, and mends the ledger after the clock was set back.
async fn readings(
    ledger: Ledger,
    clock: watch::Sender<Reading>,
    resend_delay: Duration,
    mut to_mend: bool,
) {
    loop {
        tokio::time::sleep(BETWEEN_READINGS).await;
        let expected = clock.borrow().now();
        let now = match ledger.now().await {
            Ok(now) => now,
            Err(error) => {
                warn!(%error, "the database's clock cannot be read: this replica tries again in 5 s");
                continue;
            }
        };
        clock.send_replace(Reading::taken(now));
        to_mend |= now.after(SET_BACK) < expected;
        if to_mend {
            match take_back_times(&ledger, now, resend_delay).await {
                Ok(mended) => to_mend = !mended,
                Err(error) => {
                    warn!(%error, "times of the future are not mended yet: this replica tries again in 5 s");
                }
            }
        }
    }
}

/// Takes back times of the future, unless it is the present that is wrong. Returns whether it has.
async fn take_back_times(
    ledger: &Ledger,
    now: UnixMillis,
    longest_pause: Duration,
) -> Result<bool, sqlx::Error> {
    if agree(now).is_err() {
        return Ok(false);
    }
    let rows = ledger.take_back_times(longest_pause).await?;
    if rows > 0 {
        warn!(
            rows,
            "the database's clock was set back: this replica took back times of the future"
        );
    }
    Ok(true)
}

async fn rounds(ledger: Ledger, parked_retention: Duration) {
    let mut told = None;
    loop {
        if let Err(error) = round(&ledger, parked_retention, &mut told).await {
            warn!(%error, "upkeep of the ledger failed: this replica tries again in a minute");
        }
        tokio::time::sleep(BETWEEN_ROUNDS).await;
    }
}

async fn round(
    ledger: &Ledger,
    parked_retention: Duration,
    told: &mut Option<Instant>,
) -> Result<(), sqlx::Error> {
    let now = ledger.now().await?;
    if let Err(why) = agree(now) {
        // By a clock that is years ahead every closed row would be past the retention.
        warn!(%why, "upkeep prunes nothing");
        return Ok(());
    }
    ledger.prune_markers(now.before(RETURNED_MARKERS_KEPT), now.before(MARKERS_KEPT)).await?;
    ledger.prune_progress(now).await?;
    ledger.prune_sweeps(now).await?;
    let pruned = all(|most| ledger.prune(now, most)).await?;
    if pruned > 0 {
        info!(rows = pruned, "pruned rows that were closed longer ago than the retention");
    }
    let forgotten = now.before(parked_retention);
    let parked = all(|most| ledger.forget_parked(forgotten, most)).await?;
    if parked > 0 {
        warn!(
            messages = parked,
            "forgot messages that were parked longer ago than COUNTERSIGN_PARKED_RETENTION: nobody has resent or closed them"
        );
    }
    while ledger.forget_items(forgotten, PRUNED_AT_ONCE).await? {}
    if told.is_none_or(|at| at.elapsed() >= BETWEEN_WARNINGS) {
        let soon = now.before(parked_retention - parked_retention / 10);
        let messages = ledger.parked_before(soon, u16::MAX).await?;
        if messages > 0 {
            warn!(
                messages,
                "parked messages will be forgotten soon: resend or close them, or raise COUNTERSIGN_PARKED_RETENTION"
            );
            *told = Some(Instant::now());
        }
    }
    Ok(())
}

/// Deletes until a statement finds fewer rows than it may delete. Returns how many rows were deleted.
async fn all<F>(mut delete: impl FnMut(u16) -> F) -> Result<u64, sqlx::Error>
where
    F: Future<Output = Result<u64, sqlx::Error>>,
{
    let mut all = 0;
    loop {
        let deleted = delete(PRUNED_AT_ONCE).await?;
        all += deleted;
        if deleted < u64::from(PRUNED_AT_ONCE) {
            return Ok(all);
        }
    }
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

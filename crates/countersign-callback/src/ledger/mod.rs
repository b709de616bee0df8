//! The ledger: all the SQL of this crate, in this folder.
//!
//! - `columns`: how ids, names, words and times are stored.
//! - `confirmations`: what consumers said of a message, and which messages lack a confirm.
//! - `overdue`: rows of `overdue`, noted and taken under their lock; `due`: the rows whose time has
//!   come; `transitions`: what becomes of a row; `corrections`: what a further check or the upstream's
//!   records change of it.
//! - `browse`, `story`: overdue rows and one message, for an operator.
//! - `jobs`: created, worked on under the lock of their row, told.
//! - `budget`, `progress`, `depths`, `markers`: what is known of upstreams, consumers, queues, shards; `tallies`:
//!   what became of each upstream's checks.
//! - `rolled_back`: what upstreams say was rolled back; `sweeps`: how far they say that their sweeps
//!   are.
//!
//! Everything is sorted by key before it is written, so that two writers never wait for each other
//! in a circle. Statements over partitioned tables carry the bounds of their ids: without them
//! every partition is searched (4.6 ms instead of 0.3 for 500 ids over 30 partitions).

/// `WITH RECURSIVE open_upstream AS (…)`: every upstream with a row that is due some time, then one
/// NULL. A loose scan: one probe of an index for each upstream, however many rows it has.
macro_rules! open_upstreams {
    () => {
        "WITH RECURSIVE open_upstream AS (
             (SELECT upstream FROM overdue
              WHERE due_at IS NOT NULL ORDER BY upstream LIMIT 1)
             UNION ALL
             SELECT (SELECT overdue.upstream FROM overdue
                     WHERE due_at IS NOT NULL AND overdue.upstream > open_upstream.upstream
                     ORDER BY overdue.upstream LIMIT 1)
             FROM open_upstream WHERE upstream IS NOT NULL
         )"
    };
}

mod columns;

mod confirmations;

mod overdue;

mod due;

mod transitions;

mod corrections;

mod browse;

mod story;

mod jobs;

mod budget;

mod tallies;

mod progress;

mod depths;

mod markers;

mod rolled_back;

mod set_back;

mod sweeps;

use std::time::Duration;

use countersign_postgres::{CommitError, Database, Partitions, Transaction, sqlstate};
use countersign_protocol::UnixMillis;
use countersign_retry::Pulse;

pub(crate) use self::browse::{Counted, Listed, Place};
pub(crate) use self::budget::UpstreamLoad;
use self::columns::Time;
pub(crate) use self::confirmations::Expected;
pub(crate) use self::depths::Reading;
pub(crate) use self::jobs::{Began, Created, ListedItem, LockedJob};
pub(crate) use self::markers::ShardMarkers;
pub(crate) use self::overdue::{DueCheck, Taken};
pub(crate) use self::progress::{Reached, Watched};
pub(crate) use self::rolled_back::{KEPT, RolledBackArming};
pub(crate) use self::sweeps::{SweepProgress, ToldSweep};
pub(crate) use self::tallies::{Tallies, merge};

/// Connections for people's queries.
const PEOPLES_CONNECTIONS: u32 = 3;

/// How long a query of a person may take, and how long it waits for a connection.
pub(crate) const QUERIES_END: Duration = Duration::from_secs(5);

/// The ledger's migrations.
#[must_use]
pub(crate) fn migrations() -> sqlx::migrate::Migrator {
    sqlx::migrate!("../../migrations/callback")
}

/// The ledger's database.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pool: Database,
    retention: Duration,
    /// One value for each table: it counts what this process has dropped.
    partitions: [Partitions; 3],
    pulse: Pulse,
}

impl Ledger {
    /// The ledger in this database, whose migrations are applied.
    #[must_use]
    pub(crate) fn new(pool: Database, retention: Duration) -> Self {
        let kept = |table| Partitions::new(table, retention);
        let partitions =
            [kept("confirmation"), kept("consumer_report"), Partitions::new("rolled_back", KEPT)];
        Self { pool, retention, partitions, pulse: Pulse::new() }
    }

    /// The same ledger for callers whose number nobody bounds: they share three connections, and none of
    /// their statements takes longer than [`QUERIES_END`]. Whatever they ask, recording and healing have the
    /// connections that they need.
    #[must_use]
    pub(crate) fn for_people(&self) -> Self {
        Self { pool: self.pool.for_others(PEOPLES_CONNECTIONS, QUERIES_END), ..self.clone() }
    }

    /// Its partitioned tables: what was confirmed, what consumers reported, what was rolled back.
    #[must_use]
    pub(crate) fn partitioned(&self) -> &[Partitions; 3] {
        &self.partitions
    }

    /// The database, each call to which ends within 15 s.
    #[must_use]
    pub(crate) fn pool(&self) -> &Database {
        &self.pool
    }

    /// What waits for the ledger, for the service's readiness.
    #[must_use]
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// The database's clock.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn now(&self) -> Result<UnixMillis, sqlx::Error> {
        let Time(now) =
            sqlx::query_scalar("-- now\nSELECT clock_timestamp()").fetch_one(&self.pool).await?;
        Ok(now)
    }
}

/// Whether Postgres refused a row for want of a partition: not the row's fault if there should be
/// one.
#[must_use]
pub(crate) fn lacks_partition(error: &sqlx::Error) -> bool {
    /// `check_violation`; that of a constraint has its name.
    const CHECK_VIOLATION: &str = "23514";
    sqlstate(error).as_deref() == Some(CHECK_VIOLATION)
        && error.as_database_error().is_some_and(|error| error.constraint().is_none())
}

async fn committed(transaction: Transaction) -> Result<(), sqlx::Error> {
    transaction.commit().await.map_err(|error| match error {
        CommitError::NotCommitted(cause) | CommitError::Unknown(cause) => cause,
    })
}

//! Tables partitioned by message id, which is to say by time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign_protocol::{UnixMillis, Window};
use sqlx::{AssertSqlSafe, PgExecutor, Row};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::calendar::{self, Day, Plan};
use crate::clocks::{self, ClocksDisagree};
use crate::database::Database;
use crate::transaction::{CommitError, Transaction};

/// A table `PARTITION BY RANGE (message_id)`, one partition for each day in UTC.
///
/// Partitions are made 48 hours ahead and dropped whole once all of their ids are older than the
/// retention; no row is ever deleted. There is no default partition, because it would stand in the way
/// of new ones. So Postgres refuses an id without a partition (23514).
///
/// A clock that is wrong must not cost the table. A process, whose clones of one value count together, drops no
/// more partitions than days have passed since its start, and two more; while the database's clock and this
/// machine's are more than an hour apart, it drops none and makes those around both times.
#[derive(Clone, Debug)]
pub struct Partitions {
    table: &'static str,
    retention: Duration,
    drops: Arc<Drops>,
}

/// Which ids have a partition; unknown while the clocks disagree.
pub type Places = Result<Window, ClocksDisagree>;

/// What a process has dropped of a table.
#[derive(Debug)]
struct Drops {
    since: Instant,
    count: AtomicUsize,
}

impl Drops {
    /// How many more partitions the process may drop now.
    fn left(&self) -> usize {
        let most = calendar::may_have_dropped(self.since.elapsed());
        most.saturating_sub(self.count.load(Ordering::Relaxed))
    }
}

/// How long a process waits for another that makes partitions of the same table. Making them takes
/// milliseconds each. The limit is below the one of a statement, so that the error names the lock.
const TURN_TIMEOUT: &str = "5s";
/// How long a `DROP` may wait for the table's lock: every later statement on the table waits behind
/// it.
const DROP_TIMEOUT: &str = "200ms";
/// The pause between two rounds: short beside the 48 hours that partitions are ahead.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(5 * 60);
/// The pause after a failed round, and while clocks disagree: a lock or a restart is over by then, and what is held
/// because of the clocks goes on soon after they agree.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

impl Partitions {
    /// The partitions of this table (`countersign.inbox`, or `confirmation` in schema `public`).
    /// Its rows are kept for at least `retention`.
    #[must_use]
    pub fn new(table: &'static str, retention: Duration) -> Self {
        let drops = Drops { since: Instant::now(), count: AtomicUsize::new(0) };
        Self { table, retention, drops: Arc::new(drops) }
    }

    /// Makes the missing partitions, drops those past retention, and returns the window of ids that
    /// have a partition. The database's clock counts, as long as this machine's agrees with it.
    ///
    /// # Errors
    /// When partitions could not be made. A partition that could not be dropped, because another
    /// session uses it, is left for the next time.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn maintain(&self, database: &Database) -> Result<Places, sqlx::Error> {
        let (places, past) = self.create_missing(database).await?;
        for day in past {
            match self.drop_day(database, day).await {
                Ok(()) => {
                    self.drops.count.fetch_add(1, Ordering::Relaxed);
                    info!(table = self.table, day = day.digits(), "dropped a partition");
                }
                Err(error) => {
                    warn!(table = self.table, day = day.digits(), %error, "a partition past retention stays for now");
                }
            }
        }
        Ok(places)
    }

    /// [`maintain`](Self::maintain)s the table until `shutdown`, and sends the window of ids
    /// whenever it changes.
    pub async fn keep(
        self,
        database: Database,
        shutdown: CancellationToken,
        places: watch::Sender<Places>,
    ) {
        let after = |now: &Places| if now.is_ok() { BETWEEN_ROUNDS } else { AFTER_FAILURE };
        let mut pause = after(&places.borrow());
        loop {
            let waited = async {
                tokio::time::sleep(pause).await;
                self.maintain(&database).await
            };
            match shutdown.run_until_cancelled(waited).await {
                None => return,
                Some(Ok(now)) => {
                    if let Err(why) = now {
                        warn!(table = self.table, %why, "no partition is dropped");
                    }
                    places.send_if_modified(|before| std::mem::replace(before, now) != now);
                    pause = after(&now);
                }
                Some(Err(error)) => {
                    warn!(table = self.table, %error, "partitions could not be made");
                    pause = AFTER_FAILURE;
                }
            }
        }
    }

    async fn create_missing(&self, database: &Database) -> Result<(Places, Vec<Day>), sqlx::Error> {
        let mut transaction = Transaction::open(database, &self.take_turn()).await?;
        let mut days = self.existing(&mut transaction).await?;
        let now = database_now(&mut transaction).await?;
        let clocks = clocks::agree(now);
        let plan = match clocks {
            Ok(()) => calendar::plan(&days, now, self.retention, self.drops.left()),
            Err(ClocksDisagree { database, machine }) => Plan::around(&days, [database, machine]),
        };
        for &day in &plan.create {
            sqlx::raw_sql(AssertSqlSafe(self.create_sql(day))).execute(&mut transaction).await?;
            days.insert(day);
        }
        transaction.commit().await.map_err(|e| match e {
            CommitError::NotCommitted(cause) | CommitError::Unknown(cause) => cause,
        })?;
        if !plan.create.is_empty() {
            info!(table = self.table, count = plan.create.len(), "made partitions");
        }
        if let Err(disagree) = clocks {
            return Ok((Err(disagree), Vec::new()));
        }
        for day in &plan.drop {
            days.remove(day);
        }
        let (oldest, newest) = calendar::current_run(&days, now).ok_or(sqlx::Error::RowNotFound)?;
        // The end of a day is the start of the next one, so the newest id is of the millisecond
        // before.
        let newest = newest.end().before(Duration::from_millis(1));
        Ok((Ok(Window { oldest: oldest.start(), newest }), plan.drop))
    }

    async fn drop_day(&self, database: &Database, day: Day) -> Result<(), sqlx::Error> {
        let sql = format!(
            "SET LOCAL lock_timeout = '{DROP_TIMEOUT}'; DROP TABLE IF EXISTS {}",
            self.partition(day)
        );
        let transaction = Transaction::open(database, &sql).await?;
        transaction.commit().await.map_err(|e| match e {
            CommitError::NotCommitted(cause) | CommitError::Unknown(cause) => cause,
        })
    }

    /// The statement that lets one process at a time make partitions of this table.
    fn take_turn(&self) -> String {
        format!(
            "SET LOCAL lock_timeout = '{TURN_TIMEOUT}';
             SELECT pg_advisory_xact_lock(hashtextextended('countersign partitions of {}', 0))",
            self.table
        )
    }

    async fn existing(
        &self,
        connection: impl PgExecutor<'_>,
    ) -> Result<BTreeSet<Day>, sqlx::Error> {
        let rows = sqlx::query(
            "-- partitions_existing
             SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
             WHERE inhparent = $1::regclass",
        )
        .bind(self.table)
        .fetch_all(connection)
        .await?;
        let mut days = BTreeSet::new();
        for row in rows {
            let name: String = row.try_get(0)?;
            days.extend(name.rsplit_once("_p").and_then(|(_, digits)| Day::from_digits(digits)));
        }
        Ok(days)
    }

    /// The statement that makes a partition. `CREATE TABLE … PARTITION OF` would wait for every
    /// open insert and make all later ones wait behind it; `ATTACH` does not.
    fn create_sql(&self, day: Day) -> String {
        format!(
            "CREATE TABLE {partition} (LIKE {table} INCLUDING ALL);
             ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ('{from}') TO ('{to}')",
            partition = self.partition(day),
            table = self.table,
            from = calendar::bound(day.start()),
            to = calendar::bound(day.end()),
        )
    }

    fn partition(&self, day: Day) -> String {
        format!("{}_p{}", self.table, day.digits())
    }
}

async fn database_now(connection: impl PgExecutor<'_>) -> Result<UnixMillis, sqlx::Error> {
    let ms: i64 = sqlx::query_scalar(
        "-- database_now
         SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    )
    .fetch_one(connection)
    .await?;
    Ok(UnixMillis::from_ms(ms))
}

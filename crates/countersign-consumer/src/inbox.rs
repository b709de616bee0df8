//! The inbox: what has taken effect in this database. All SQL of this crate is here.
//!
//! Every call is bounded in time, because [`Database`] is, and cancel safe because [`Transaction`] is: one that is dropped
//! is rolled back.

use std::collections::HashSet;
use std::time::Duration;

use countersign_postgres::{
    CommitError, Database, Partitions, Places, Transaction, Trouble, is_duplicate_key, migrate,
    sdk_migrator, sqlstate, trouble,
};
use countersign_protocol::{MessageId, Name};
use countersign_retry::Retry;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::delivery::Delivery;
use crate::error::Error;
use crate::settings::ConsumerSettings;

/// `no_active_sql_transaction`: a COMMIT found no transaction, because the handler has ended it.
const NO_TRANSACTION: &str = "25P01";

const TABLE: &str = "countersign.inbox";

/// How long a claim waits for another delivery of the same message whose transaction is open. Longer than a
/// usual handler, so that the claim mostly sees the end of that transaction; then the worker tries again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a handler that takes long is looked after: whether its transaction is still there.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

/// The consumer's inbox in its database.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    database: Database,
    /// For looks while handlers hold all connections of the pool.
    apart: Database,
    consumer: Name,
    queue: String,
}

/// What a claim came to.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Some of the group are claimed: there is an inbox row for each of them in the transaction.
    Won {
        /// Open, for their effects.
        transaction: Transaction,
        /// How many: the group's first.
        count: usize,
    },
    /// All of them have taken effect before.
    AllDuplicates,
    /// One of them has taken effect before, for a consumer of this name on another queue. Nothing is claimed.
    OfAnotherQueue {
        /// That queue.
        queue: String,
    },
}

/// Why the database does not have the effect for sure.
#[derive(Debug)]
pub(crate) enum Uncommitted {
    /// It refused, and says why.
    Refused(sqlx::Error),
    /// The handler ended the transaction itself; the next claim tells which way.
    EndedEarly,
    /// The database did not say; the next claim tells.
    Unknown(String),
}

impl Inbox {
    /// Brings the inbox into the database, and keeps its partitions until `abandon`. Says which ids have a
    /// place in it, from now on.
    ///
    /// # Errors
    /// When the database refuses the inbox's tables. A database that is away is waited for.
    pub(crate) async fn prepare(
        pool: PgPool,
        settings: &ConsumerSettings,
        abandon: &CancellationToken,
    ) -> Result<(Self, watch::Receiver<Places>), Error> {
        let connections = pool.options().get_max_connections();
        if usize::try_from(connections).is_ok_and(|n| n < settings.concurrency) {
            warn!(
                connections,
                concurrency = settings.concurrency,
                "fewer database connections than handlers: some handlers wait for others"
            );
        }
        let migrations = sqlx::migrate!("../../migrations/consumer");
        let migrator = sdk_migrator(migrations, "countersign._consumer_migrations");
        migrate(&pool, migrator).await.map_err(|e| Error::Inbox(e.into()))?;
        let database = Database::from(pool);
        let partitions = Partitions::new(TABLE, settings.retention);
        let (sender, places) = watch::channel(first_places(&partitions, &database).await);
        tokio::spawn(partitions.keep(database.clone(), abandon.clone(), sender));
        let apart = database.apart();
        let (consumer, queue) = (settings.name.clone(), settings.queue.clone());
        Ok((Self { database, apart, consumer, queue }, places))
    }

    /// Opens a transaction and claims the group's messages in it. Those that are claimed come
    /// first in `group` then, each message once; the others have taken effect before.
    pub(crate) async fn claim(&self, group: &mut [Delivery]) -> Result<Claim, String> {
        let claimed = match group {
            [alone] => self.claim_one(alone).await,
            group => self.claim_many(group).await,
        };
        claimed.map_err(|e| format!("cannot claim: {e}"))
    }

    /// One round trip; a message that is in the inbox already shows as a violated key. The texts
    /// are safe to put into SQL: a UUID, a name of letters, digits, dots, underscores, hyphens, and a
    /// queue's name in hexadecimal.
    async fn claim_one(&self, delivery: &Delivery) -> Result<Claim, sqlx::Error> {
        let statement = format!(
            "-- claim
SET LOCAL lock_timeout = {lock_timeout};
INSERT INTO {TABLE} (message_id, consumer, queue)
VALUES ('{id}', '{consumer}', convert_from(decode('{queue}', 'hex'), 'UTF8'));
SET LOCAL lock_timeout TO DEFAULT",
            lock_timeout = LOCK_TIMEOUT.as_millis(),
            id = delivery.id(),
            consumer = self.consumer,
            queue = hex(&self.queue),
        );
        match Transaction::open(&self.database, &statement).await {
            Ok(transaction) => Ok(Claim::Won { transaction, count: 1 }),
            Err(e) if is_duplicate_key(&e, TABLE) => {
                let queue = self.count_duplicate(delivery).await?;
                // Without a row, its partition was dropped just now: it has taken effect long ago.
                Ok(match queue.filter(|queue| *queue != self.queue) {
                    Some(queue) => Claim::OfAnotherQueue { queue },
                    None => Claim::AllDuplicates,
                })
            }
            Err(e) => Err(e),
        }
    }

    /// The keys are sorted: two batches that overlap in opposite orders would deadlock.
    async fn claim_many(&self, group: &mut [Delivery]) -> Result<Claim, sqlx::Error> {
        const CLAIM: &str = "\
-- claim_batch
INSERT INTO countersign.inbox (message_id, consumer, queue)
SELECT message_id, $2, $3 FROM UNNEST($1::uuid[]) AS claimed (message_id)
ON CONFLICT DO NOTHING
RETURNING message_id";
        let mut ids: Vec<Uuid> = group.iter().map(|delivery| delivery.id().uuid()).collect();
        ids.sort_unstable();
        let lock_timeout = format!("SET LOCAL lock_timeout = {}", LOCK_TIMEOUT.as_millis());
        let mut transaction = Transaction::open(&self.database, &lock_timeout).await?;
        let rows: Vec<Uuid> = sqlx::query_scalar(CLAIM)
            .bind(ids)
            .bind(self.consumer.as_str())
            .bind(&self.queue)
            .fetch_all(&mut transaction)
            .await?;
        let mut claimed: HashSet<Uuid> = rows.into_iter().collect();
        let mut count = 0;
        for i in 0..group.len() {
            if claimed.remove(&group[i].id().uuid()) {
                group.swap(count, i);
                count += 1;
            }
        }
        let other = self.count_duplicates(&mut transaction, &group[count..]).await?;
        if let Some(queue) = other {
            // Dropped, the transaction is rolled back: the group is done one by one.
            return Ok(Claim::OfAnotherQueue { queue });
        }
        if count == 0 {
            // If the commit's fate is unknown, the messages are claimed again, and perhaps counted twice.
            return transaction.commit().await.map(|()| Claim::AllDuplicates).map_err(cause);
        }
        sqlx::query("SET LOCAL lock_timeout TO DEFAULT").execute(&mut transaction).await?;
        Ok(Claim::Won { transaction, count })
    }

    /// Counts a duplicate in the inbox, where the count outlives the process and a query can sum it up. The
    /// violated key has ended the claim's transaction, so the count has its own, committed before the confirm.
    /// Returns the queue that the message took effect from; a delivery from another one is not counted.
    async fn count_duplicate(&self, delivery: &Delivery) -> Result<Option<String>, sqlx::Error> {
        const COUNT: &str = "\
-- count_duplicate
UPDATE countersign.inbox SET duplicates = duplicates + (queue = $3)::integer
WHERE message_id = $1 AND consumer = $2
RETURNING queue";
        sqlx::query_scalar(COUNT)
            .bind(delivery.id().uuid())
            .bind(self.consumer.as_str())
            .bind(&self.queue)
            .fetch_optional(&self.database)
            .await
    }

    /// Counts duplicates in the transaction of the other messages' effects. The rows are locked in the order of
    /// their keys, as claims take them: two batches cannot deadlock. Returns another queue that one of them took
    /// effect from, if there is one.
    async fn count_duplicates(
        &self,
        transaction: &mut Transaction,
        duplicates: &[Delivery],
    ) -> Result<Option<String>, sqlx::Error> {
        const COUNT: &str = "\
-- count_duplicates
WITH come_again AS (
    SELECT message_id, count(*)::integer AS times FROM UNNEST($1::uuid[]) AS delivered (message_id)
    GROUP BY message_id
), counted AS (
    SELECT inbox.message_id, times FROM countersign.inbox JOIN come_again USING (message_id)
    WHERE inbox.consumer = $2 AND inbox.message_id BETWEEN $3 AND $4
    ORDER BY inbox.message_id FOR UPDATE OF inbox
)
UPDATE countersign.inbox SET duplicates = duplicates + times
FROM counted
WHERE inbox.message_id = counted.message_id AND inbox.consumer = $2
    AND inbox.message_id BETWEEN $3 AND $4
RETURNING queue";
        let ids: Vec<Uuid> = duplicates.iter().map(|delivery| delivery.id().uuid()).collect();
        let (Some(&oldest), Some(&newest)) = (ids.iter().min(), ids.iter().max()) else {
            return Ok(None);
        };
        let queues: Vec<String> = sqlx::query_scalar(COUNT)
            .bind(ids)
            .bind(self.consumer.as_str())
            .bind(oldest)
            .bind(newest)
            .fetch_all(&mut *transaction)
            .await?;
        Ok(queues.into_iter().find(|queue| *queue != self.queue))
    }

    /// Returns when the transaction that has claimed this message is surely over, although this process has
    /// not ended it: the server has lost it, or lost sight of this process. A handler that waits for the
    /// transaction's answer would wait for ever.
    ///
    /// The claim itself tells: as long as the transaction is open, nobody else gets the key.
    pub(crate) async fn lost(&self, id: MessageId) {
        let claim = format!(
            "-- is_claimed
SET LOCAL lock_timeout = '100ms';
INSERT INTO {TABLE} (message_id, consumer, queue) VALUES ('{id}', '{consumer}', '')",
            consumer = self.consumer,
        );
        loop {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            match Transaction::open(&self.apart, &claim).await {
                Ok(claimed) => {
                    drop(claimed.rollback().await);
                    return;
                }
                // Another delivery of the message has taken effect, or the handler has committed by itself.
                Err(error) if is_duplicate_key(&error, TABLE) => return,
                // The claim stands, or the database is away: its lock is not to be had.
                Err(error) if trouble(&error) == Trouble::Again => {}
                Err(error) => {
                    warn!(%error, "whether the server has lost a handler's transaction cannot be asked: a handler without handler_timeout may wait for ever");
                }
            }
        }
    }

    /// Whether the database answers at all.
    pub(crate) async fn answers(&self) -> Result<(), String> {
        self.database.answers().await.map_err(|e| format!("no answer: {e}"))
    }
}

/// A text in hexadecimal, as Postgres' `decode` reads it.
fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the first partitions, however long the database is away.
async fn first_places(partitions: &Partitions, database: &Database) -> Places {
    let mut retry = Retry::new("make the inbox's partitions");
    loop {
        match partitions.maintain(database).await {
            Ok(places) => {
                retry.worked();
                return places;
            }
            Err(error) => tokio::time::sleep(retry.failed(&error)).await,
        }
    }
}

/// Commits effect and inbox rows together.
pub(crate) async fn commit(transaction: Transaction) -> Result<(), Uncommitted> {
    match transaction.commit().await {
        Ok(()) => Ok(()),
        Err(CommitError::NotCommitted(e)) => Err(Uncommitted::Refused(e)),
        Err(CommitError::Unknown(e)) if sqlstate(&e).as_deref() == Some(NO_TRANSACTION) => {
            Err(Uncommitted::EndedEarly)
        }
        Err(CommitError::Unknown(e)) => {
            Err(Uncommitted::Unknown(format!("the commit's result is unknown: {e}")))
        }
    }
}

/// Rolls everything back. An error says that the database is away, and then nothing was committed either.
pub(crate) async fn roll_back(transaction: Transaction) -> Result<(), String> {
    transaction.rollback().await.map_err(|e| format!("the connection was lost: {e}"))
}

/// What a commit failed for, whether or not it is known to have failed.
fn cause(error: CommitError) -> sqlx::Error {
    match error {
        CommitError::NotCommitted(e) | CommitError::Unknown(e) => e,
    }
}

//! Jobs: created in one statement, worked on under the lock of their row, and told.
//!
//! Items begin in the order of their position, so that the counts of a job also say which item is
//! next. An item ends in the statement that changes its overdue row (`write`); whoever works on the
//! job then counts it. So nothing is looked at that has not changed, and no two replicas wait for a
//! job's row.

use std::collections::BTreeMap;

use countersign_postgres::Transaction;
use countersign_protocol::{MessageId, UnixMillis};
use sqlx::FromRow;
use uuid::Uuid;

use super::browse::{bound, with_groups};
use super::{
    Counted, KeyRow, Ledger, OverdueRow, committed, lock, read_id, read_text, recorded, write,
};
use crate::rules::job::{Ended, ItemState, Job};
use crate::rules::new_job::{NewJob, Selection};
use crate::rules::overdue::{Key, Overdue, Recorded, Transition};

/// An item, as it is listed. Times are in milliseconds since 1970.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct ListedItem {
    pub(crate) position: i64,
    pub(crate) message_id: Uuid,
    pub(crate) upstream: String,
    pub(crate) state: String,
    pub(crate) result: String,
    pub(crate) ended_at_ms: Option<i64>,
}

/// An item that is to be begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Which, of its job.
    pub(crate) position: i64,
    /// The message.
    pub(crate) message_id: MessageId,
    /// Its row, as it is under its lock.
    pub(crate) overdue: Option<Overdue>,
    /// What is recorded about it, read under that lock.
    pub(crate) recorded: Recorded,
}

/// What becomes of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Began {
    /// Which.
    pub(crate) position: i64,
    /// Where it stands.
    pub(crate) state: ItemState,
    /// What came of it.
    pub(crate) result: String,
}

/// A job's row under its lock: whoever holds it works on the job.
#[derive(Debug)]
#[must_use = "dropped without `end`, nothing is changed"]
pub(crate) struct Turn {
    transaction: Transaction,
    /// The job, with what has ended since counted.
    pub(crate) job: Job,
    /// The database's clock.
    pub(crate) now: UnixMillis,
}

/// How many ended items are counted at once.
const COUNTED_AT_ONCE: i64 = 10_000;

/// A job's columns.
macro_rules! job_query {
    ($name:literal, $from:literal) => {
        concat!(
            "-- ",
            $name,
            "
             SELECT job_id, action, state, reason, who, why, rate, step, items, begun, succeeded,
                    failed, skipped, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
                    floor(extract(epoch FROM ended_at) * 1000)::bigint AS ended_at_ms,
                    floor(extract(epoch FROM begins_at) * 1000)::bigint AS begins_at_ms,
                    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
             ",
            $from
        )
    };
}

impl Ledger {
    /// Creates a job and its items, however many.
    ///
    /// # Errors
    /// When the database does not answer: nobody knows then whether it is there.
    pub(crate) async fn create_job(&self, new: &NewJob) -> Result<(), sqlx::Error> {
        let mut transaction = Transaction::open(self.pool(), "").await?;
        sqlx::query(
            "-- create_job
             INSERT INTO job (job_id, action, selection, who, why, rate, step, state, items)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 'running', 0)",
        )
        .bind(new.id)
        .bind::<&str>(new.action.into())
        .bind(new.selection.text())
        .bind(&new.who)
        .bind(&new.why)
        .bind(new.rate)
        .bind(stored(new.step))
        .execute(&mut *transaction)
        .await?;
        let (items,): (i64,) = match &new.selection {
            Selection::Ids(ids) => {
                sqlx::query_as(
                    "-- create_items_of_ids
                     WITH item AS (
                         INSERT INTO job_item (job_id, position, message_id, upstream)
                         SELECT $2, row_number() OVER (ORDER BY since, message_id, upstream),
                                message_id, coalesce(upstream, '')
                         FROM (SELECT DISTINCT message_id FROM UNNEST($1::uuid[])
                                   AS given (message_id)) AS given
                         LEFT JOIN overdue USING (message_id)
                         RETURNING position
                     )
                     SELECT count(*) FROM item",
                )
                .bind(uuids(ids))
                .bind(new.id)
                .fetch_one(&mut *transaction)
                .await?
            }
            Selection::Matching(filter) => {
                let sql = with_groups!(
                    "create_items_of_filter",
                    ", item AS (
                         INSERT INTO job_item (job_id, position, message_id, upstream)
                         SELECT $7, row_number() OVER (
                                    ORDER BY row.since, row.message_id, row.upstream),
                                row.message_id, row.upstream
                         FROM in_filter
                         CROSS JOIN LATERAL (
                             SELECT since, message_id, upstream FROM overdue
                             WHERE overdue.state = in_filter.state
                               AND overdue.upstream = in_filter.upstream
                               AND overdue.cause = in_filter.cause
                               AND overdue.consumers = in_filter.consumers
                               AND since <= coalesce(
                                   now() - $5::bigint * interval '1 ms', 'infinity')
                               AND since >= coalesce(
                                   now() - $6::bigint * interval '1 ms', '-infinity')
                         ) AS row
                         RETURNING position
                     )
                     SELECT count(*) FROM item"
                );
                bound(sqlx::query_as(sql), filter).bind(new.id).fetch_one(&mut *transaction).await?
            }
        };
        sqlx::query(
            "-- begin_job
             UPDATE job
             SET items = $2, state = CASE $2 WHEN 0 THEN 'done' ELSE state END,
                 ended_at = CASE $2 WHEN 0 THEN now() END
             WHERE job_id = $1",
        )
        .bind(new.id)
        .bind(items)
        .execute(&mut *transaction)
        .await?;
        committed(transaction).await
    }

    /// How many of these messages there are, in groups as [`count_overdue`](Self::count_overdue)
    /// has them; those without a row are `unknown`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn count_ids(&self, ids: &[MessageId]) -> Result<Vec<Counted>, sqlx::Error> {
        sqlx::query_as(
            "-- count_ids
             SELECT coalesce(state, 'unknown') AS state, coalesce(upstream, '') AS upstream,
                    coalesce(cause, '') AS cause, coalesce(consumers, '{}') AS consumers,
                    count(*) AS messages,
                    coalesce(floor(extract(epoch FROM min(since)) * 1000)::bigint, 0)
                        AS oldest_since_ms
             FROM (SELECT DISTINCT message_id FROM UNNEST($1::uuid[]) AS given (message_id))
                 AS given
             LEFT JOIN overdue USING (message_id)
             GROUP BY state, upstream, cause, consumers",
        )
        .bind(uuids(ids))
        .fetch_all(self.pool())
        .await
    }

    /// A job.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn job(&self, id: Uuid) -> Result<Option<Job>, sqlx::Error> {
        let row: Option<JobRow> = sqlx::query_as(job_query!("job", "FROM job WHERE job_id = $1"))
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        row.map(JobRow::read).transpose()
    }

    /// Jobs, the newest first, each with when it was created in microseconds since 1970.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn list_jobs(
        &self,
        after: Option<(i64, Uuid)>,
        limit: u32,
    ) -> Result<Vec<(i64, Job)>, sqlx::Error> {
        let rows: Vec<JobRow> = sqlx::query_as(job_query!(
            "list_jobs",
            "FROM job
             WHERE (created_at, job_id) < (
                 coalesce('epoch'::timestamptz + $1::bigint * interval '1 us', 'infinity'), $2)
             ORDER BY created_at DESC, job_id DESC
             LIMIT $3"
        ))
        .bind(after.map(|(at_us, _)| at_us))
        .bind(after.map_or(Uuid::max(), |(_, id)| id))
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.into_iter().map(|row| Ok((row.created_at_us, row.read()?))).collect()
    }

    /// Items of a job in the order in which they begin, from the one behind position `after` on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn list_items(
        &self,
        job: Uuid,
        state: Option<ItemState>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<ListedItem>, sqlx::Error> {
        sqlx::query_as(
            "-- list_items
             SELECT position, message_id, upstream, state, result,
                    floor(extract(epoch FROM ended_at) * 1000)::bigint AS ended_at_ms
             FROM job_item
             WHERE job_id = $1 AND position > $2 AND ($3::text IS NULL OR state = $3)
             ORDER BY position
             LIMIT $4",
        )
        .bind(job)
        .bind(after)
        .bind(state.map(<&str>::from))
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
    }

    /// Lets a job begin nothing more; one that does not run stays as it is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn cancel_job(&self, id: Uuid, reason: &str) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- cancel_job
             UPDATE job SET state = 'cancelled', cancelled_at = now(), reason = $2
             WHERE job_id = $1 AND state = 'running'",
        )
        .bind(id)
        .bind(reason)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The jobs that have items which have not ended, the oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn open_jobs(&self) -> Result<Vec<Uuid>, sqlx::Error> {
        sqlx::query_scalar(
            "-- open_jobs
             SELECT job_id FROM job WHERE ended_at IS NULL ORDER BY job_id",
        )
        .fetch_all(self.pool())
        .await
    }

    /// Takes a turn at a job, and counts what has ended. `None` if somebody else has it, or there is
    /// nothing left to do.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn take_job(&self, id: Uuid) -> Result<Option<Turn>, sqlx::Error> {
        let mut transaction = Transaction::open(self.pool(), "").await?;
        let row: Option<JobRow> = sqlx::query_as(job_query!(
            "take_job",
            "FROM job WHERE job_id = $1 AND ended_at IS NULL FOR UPDATE SKIP LOCKED"
        ))
        .bind(id)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let now = UnixMillis::from_ms(row.now_ms);
        let mut turn = Turn { transaction, job: row.read()?, now };
        turn.count().await?;
        Ok(Some(turn))
    }
}

impl Turn {
    async fn count(&mut self) -> Result<(), sqlx::Error> {
        let counted: Vec<(String, i64)> = sqlx::query_as(
            "-- count_ended
             WITH ended AS (
                 UPDATE job_item SET counted = TRUE
                 WHERE job_id = $1 AND position = ANY(ARRAY(
                     SELECT position FROM job_item
                     WHERE job_id = $1 AND ended_at IS NOT NULL AND NOT counted
                     LIMIT $2
                 ))
                 RETURNING state
             )
             SELECT state, count(*) FROM ended GROUP BY state",
        )
        .bind(self.job.id)
        .bind(COUNTED_AT_ONCE)
        .fetch_all(&mut *self.transaction)
        .await?;
        for (state, count) in counted {
            let count = number(count);
            self.job.begun = self.job.begun.saturating_sub(count);
            self.job.ended.add(read_text(&state)?, count);
        }
        Ok(())
    }

    /// The next pending items, their rows locked.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn next_items(&mut self, most: u64) -> Result<Vec<Item>, sqlx::Error> {
        let first = self.job.items.saturating_sub(self.job.pending());
        let next: Vec<(i64, Uuid, String)> = sqlx::query_as(
            "-- next_items
             SELECT position, message_id, upstream FROM job_item
             WHERE job_id = $1 AND position > $2
             ORDER BY position
             LIMIT $3",
        )
        .bind(self.job.id)
        .bind(stored(first))
        .bind(stored(most))
        .fetch_all(&mut *self.transaction)
        .await?;
        let with_row = next.iter().filter(|(.., upstream)| !upstream.is_empty());
        let keys: Vec<Key> = with_row
            .map(|(_, id, upstream)| KeyRow { message_id: *id, upstream: upstream.clone() }.read())
            .collect::<Result<_, _>>()?;
        let mut rows: BTreeMap<Key, Overdue> = BTreeMap::new();
        for row in lock(&mut self.transaction, &keys).await? {
            let overdue = OverdueRow::read(row)?;
            rows.insert(overdue.key.clone(), overdue);
        }
        let ids: Vec<MessageId> =
            next.iter().map(|(_, id, _)| read_id(*id)).collect::<Result<_, _>>()?;
        // Read under the locks: see `Taken::read`.
        let mut recorded = recorded(&mut self.transaction, ids.iter().copied()).await?;
        let item = |((position, _, upstream), message_id): ((i64, Uuid, String), MessageId)| {
            let key = upstream.parse().ok().map(|upstream| Key { message_id, upstream });
            let overdue = key.and_then(|key| rows.remove(&key));
            // The same message may be there again, of another upstream.
            let recorded = recorded.get_mut(&message_id).cloned().unwrap_or_default();
            Item { position, message_id, overdue, recorded }
        };
        Ok(next.into_iter().zip(ids).map(item).collect())
    }

    /// Writes what becomes of items that were pending, of their rows, and what these are granted.
    ///
    /// # Errors
    /// When the database does not answer; nothing is changed then.
    pub(crate) async fn begin(
        &mut self,
        began: &[Began],
        transitions: &[Transition],
        granted: &[(Key, u32)],
    ) -> Result<(), sqlx::Error> {
        if !granted.is_empty() {
            self.grant(granted).await?;
        }
        if !transitions.is_empty() {
            write(&mut self.transaction, transitions).await?;
        }
        let positions: Vec<i64> = began.iter().map(|item| item.position).collect();
        let states: Vec<&str> = began.iter().map(|item| item.state.into()).collect();
        let results: Vec<&str> = began.iter().map(|item| item.result.as_str()).collect();
        sqlx::query(
            "-- begin_items
             UPDATE job_item
             SET state = began.state, result = began.result,
                 ended_at = CASE WHEN began.state <> 'begun' THEN now() END,
                 counted = began.state <> 'begun'
             FROM UNNEST($2::bigint[], $3::text[], $4::text[]) AS began (position, state, result)
             WHERE job_item.job_id = $1 AND job_item.position = began.position",
        )
        .bind(self.job.id)
        .bind(positions)
        .bind(states)
        .bind(results)
        .execute(&mut *self.transaction)
        .await?;
        for item in began {
            match item.state {
                ItemState::Begun => self.job.begun += 1,
                ended => self.job.ended.add(ended, 1),
            }
        }
        Ok(())
    }

    /// What consumers have rejected before somebody asked for the message again does not count any
    /// more. The history of the row still tells it.
    async fn grant(&mut self, granted: &[(Key, u32)]) -> Result<(), sqlx::Error> {
        let ids: Vec<Uuid> = granted.iter().map(|(key, _)| key.message_id.uuid()).collect();
        let upstreams: Vec<&str> = granted.iter().map(|(key, _)| key.upstream.as_str()).collect();
        let up_to: Vec<i32> =
            granted.iter().map(|(_, up_to)| super::stored_count(*up_to)).collect();
        sqlx::query(
            "-- grant
             WITH forgotten AS (
                 DELETE FROM consumer_report
                 WHERE message_id BETWEEN $4 AND $5 AND message_id = ANY($1)
                   AND outcome = 'rejected'
             )
             UPDATE overdue
             SET granted = granted.up_to, granted_at = now()
             FROM UNNEST($1::uuid[], $2::text[], $3::integer[])
                 AS granted (message_id, upstream, up_to)
             WHERE overdue.message_id = granted.message_id
               AND overdue.upstream = granted.upstream",
        )
        .bind(&ids)
        .bind(upstreams)
        .bind(up_to)
        .bind(ids.iter().min())
        .bind(ids.iter().max())
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }

    /// Leaves out up to so many of the pending items.
    ///
    /// # Errors
    /// When the database does not answer; nothing is changed then.
    pub(crate) async fn skip(&mut self, most: u64, result: &str) -> Result<(), sqlx::Error> {
        let first = self.job.items.saturating_sub(self.job.pending());
        let skipped = sqlx::query(
            "-- skip_items
             UPDATE job_item
             SET state = 'skipped', result = $4, ended_at = now(), counted = TRUE
             WHERE job_id = $1 AND position > $2 AND position <= $3",
        )
        .bind(self.job.id)
        .bind(stored(first))
        .bind(stored(first.saturating_add(most)))
        .bind(result)
        .execute(&mut *self.transaction)
        .await?;
        self.job.ended.skipped += skipped.rows_affected();
        Ok(())
    }

    /// Writes the job as it stands now, and gives it back.
    ///
    /// # Errors
    /// When nothing was changed, or nobody knows whether it was: the connection was lost during the
    /// commit.
    pub(crate) async fn end(mut self) -> Result<(), sqlx::Error> {
        let job = &self.job;
        sqlx::query(
            "-- write_job
             UPDATE job
             SET state = $2, reason = $3, step = $4, begun = $5, succeeded = $6, failed = $7,
                 skipped = $8, begins_at = to_timestamp($9::bigint / 1000.0),
                 ended_at = to_timestamp($10::bigint / 1000.0)
             WHERE job_id = $1",
        )
        .bind(job.id)
        .bind::<&str>(job.state.into())
        .bind(&job.reason)
        .bind(stored(job.step))
        .bind(stored(job.begun))
        .bind(stored(job.ended.succeeded))
        .bind(stored(job.ended.failed))
        .bind(stored(job.ended.skipped))
        .bind(job.begins_at.map(UnixMillis::ms))
        .bind(job.ended_at.map(UnixMillis::ms))
        .execute(&mut *self.transaction)
        .await?;
        committed(self.transaction).await
    }

    /// Gives the job back as it was.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn leave(self) -> Result<(), sqlx::Error> {
        self.transaction.rollback().await
    }
}

#[derive(FromRow)]
struct JobRow {
    job_id: Uuid,
    action: String,
    state: String,
    reason: String,
    who: String,
    why: String,
    created_at_us: i64,
    ended_at_ms: Option<i64>,
    begins_at_ms: Option<i64>,
    rate: Option<f64>,
    step: i64,
    items: i64,
    begun: i64,
    succeeded: i64,
    failed: i64,
    skipped: i64,
    now_ms: i64,
}

impl JobRow {
    fn read(self) -> Result<Job, sqlx::Error> {
        Ok(Job {
            id: self.job_id,
            action: read_text(&self.action)?,
            state: read_text(&self.state)?,
            reason: self.reason,
            who: self.who,
            why: self.why,
            created_at: UnixMillis::from_ms(self.created_at_us.div_euclid(1_000)),
            ended_at: self.ended_at_ms.map(UnixMillis::from_ms),
            rate: self.rate,
            begins_at: self.begins_at_ms.map(UnixMillis::from_ms),
            step: number(self.step),
            items: number(self.items),
            begun: number(self.begun),
            ended: Ended {
                succeeded: number(self.succeeded),
                failed: number(self.failed),
                skipped: number(self.skipped),
            },
        })
    }
}

fn uuids(ids: &[MessageId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.uuid()).collect()
}

fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

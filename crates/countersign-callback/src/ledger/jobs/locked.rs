//! A job at work, under the lock of its row.

use std::collections::BTreeMap;

use countersign_postgres::Transaction;
use countersign_protocol::{MessageId, Name, UnixMillis};
use uuid::Uuid;

use super::{JobRow, number, stored};
use crate::ledger::columns::{Id, Text, Time, stored_count};
use crate::ledger::overdue::{Locked, lock, recorded};
use crate::ledger::transitions::write;
use crate::ledger::{Ledger, committed};
use crate::rules::job::{ItemState, Job, JobState};
use crate::rules::overdue::{Key, Overdue, Recorded, Transition};

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

/// A job's row under its lock: the replica that holds the lock works on the job.
#[derive(Debug)]
#[must_use = "dropped without `end`, nothing is changed"]
pub(crate) struct LockedJob {
    transaction: Transaction,
    /// The job, with what has ended since counted.
    pub(crate) job: Job,
    /// The database's clock.
    pub(crate) now: UnixMillis,
    /// How many ended items were counted just now.
    counted: u64,
}

/// How many ended items are counted at once: a bulk job must not hold the lock of its row while
/// hundreds of thousands are.
const COUNTED_AT_ONCE: u64 = 10_000;

impl Ledger {
    /// Lets a job begin nothing more; one that does not run stays as it is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn cancel_job(&self, id: Uuid, reason: &str) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- cancel_job
             UPDATE job SET state = $3, cancelled_at = now(), reason = $2
             WHERE job_id = $1 AND state = $4",
        )
        .bind(id)
        .bind(reason)
        .bind::<&str>(JobState::Cancelled.into())
        .bind::<&str>(JobState::Running.into())
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

    /// Locks a job, and counts its ended items. `None` if another replica has locked it, or there is
    /// nothing left to do.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn take_job(&self, id: Uuid) -> Result<Option<LockedJob>, sqlx::Error> {
        let mut transaction = Transaction::open(self.pool(), "").await?;
        let row: Option<JobRow> = sqlx::query_as(job_query!(
            "take_job",
            "FROM job WHERE job_id = $1 AND ended_at IS NULL FOR UPDATE SKIP LOCKED"
        ))
        .bind(id)
        .fetch_optional(&mut transaction)
        .await?;
        let Some(row) = row else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let mut job = LockedJob { transaction, now: row.now.0, job: row.job, counted: 0 };
        job.count().await?;
        Ok(Some(job))
    }
}

impl LockedJob {
    /// Whether ended items were counted just now: they are again, if the job is left as it was.
    pub(crate) fn has_counted(&self) -> bool {
        self.counted > 0
    }

    /// Whether there may be more ended items to count.
    pub(crate) fn has_more_to_count(&self) -> bool {
        self.counted >= COUNTED_AT_ONCE
    }

    async fn count(&mut self) -> Result<(), sqlx::Error> {
        let counted: Vec<(Text<ItemState>, i64)> = sqlx::query_as(
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
        .bind(stored(COUNTED_AT_ONCE))
        .fetch_all(&mut self.transaction)
        .await?;
        for (Text(state), count) in counted {
            let count = number(count);
            self.counted += count;
            self.job.begun = self.job.begun.saturating_sub(count);
            self.job.ended.add(state, count);
        }
        Ok(())
    }

    /// The next pending items, their rows locked.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn next_items(&mut self, most: u64) -> Result<Vec<Item>, sqlx::Error> {
        let first = self.job.items.saturating_sub(self.job.pending());
        let next: Vec<(i64, Id, Option<Text<Name>>)> = sqlx::query_as(
            "-- next_items
             SELECT position, message_id, nullif(upstream, '') FROM job_item
             WHERE job_id = $1 AND position > $2
             ORDER BY position
             LIMIT $3",
        )
        .bind(self.job.id)
        .bind(stored(first))
        .bind(stored(most))
        .fetch_all(&mut self.transaction)
        .await?;
        let key = |(_, Id(message_id), upstream): &(i64, Id, Option<Text<Name>>)| {
            let Text(upstream) = upstream.clone()?;
            Some(Key { message_id: *message_id, upstream })
        };
        let keys: Vec<Key> = next.iter().filter_map(key).collect();
        let rows = lock(&mut self.transaction, &keys).await?.into_iter();
        let mut rows: BTreeMap<Key, Locked> =
            rows.map(|row| (row.overdue.key.clone(), row)).collect();
        let ids = next.iter().map(|(_, Id(id), _)| *id);
        // Read under the locks: see `Taken::read`.
        let recorded = recorded(&mut self.transaction, ids).await?;
        let item = |item| {
            let row = key(&item).and_then(|key| rows.remove(&key));
            let (position, Id(message_id), _) = item;
            // The same message may be there again, of another upstream.
            let recorded = recorded.get(&message_id).cloned().unwrap_or_default();
            let (overdue, recorded) = match row.map(|row| row.with(recorded.clone())) {
                Some((overdue, recorded)) => (Some(overdue), recorded),
                None => (None, recorded),
            };
            Item { position, message_id, overdue, recorded }
        };
        Ok(next.into_iter().map(item).collect())
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
            // No step of a job parks a row.
            write(&mut self.transaction, transitions, |_| None).await?;
        }
        let positions: Vec<i64> = began.iter().map(|item| item.position).collect();
        let states: Vec<&str> = began.iter().map(|item| item.state.into()).collect();
        let results: Vec<&str> = began.iter().map(|item| item.result.as_str()).collect();
        sqlx::query(
            "-- begin_items
             UPDATE job_item
             SET state = began.state, result = began.result,
                 ended_at = CASE WHEN began.state <> $5 THEN now() END,
                 counted = began.state <> $5
             FROM UNNEST($2::bigint[], $3::text[], $4::text[]) AS began (position, state, result)
             WHERE job_item.job_id = $1 AND job_item.position = began.position",
        )
        .bind(self.job.id)
        .bind(positions)
        .bind(states)
        .bind(results)
        .bind::<&str>(ItemState::Begun.into())
        .execute(&mut self.transaction)
        .await?;
        for item in began {
            match item.state {
                ItemState::Begun => self.job.begun += 1,
                ended => self.job.ended.add(ended, 1),
            }
        }
        Ok(())
    }

    /// What consumers have rejected before an operator asked for the message again does not count any
    /// more. The history of the row still tells it.
    async fn grant(&mut self, granted: &[(Key, u32)]) -> Result<(), sqlx::Error> {
        let ids: Vec<Uuid> = granted.iter().map(|(key, _)| key.message_id.uuid()).collect();
        let upstreams: Vec<&str> = granted.iter().map(|(key, _)| key.upstream.as_str()).collect();
        let up_to: Vec<i32> = granted.iter().map(|(_, up_to)| stored_count(*up_to)).collect();
        sqlx::query(
            "-- grant
             WITH forgotten AS (
                 DELETE FROM consumer_report
                 WHERE message_id BETWEEN $4 AND $5 AND message_id = ANY($1)
                   AND outcome = 'rejected'
             )
             UPDATE overdue
             SET granted = granted.up_to, granted_at = now(), granted_by_person = true
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
        .execute(&mut self.transaction)
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
             SET state = $5, result = $4, ended_at = now(), counted = TRUE
             WHERE job_id = $1 AND position > $2 AND position <= $3",
        )
        .bind(self.job.id)
        .bind(stored(first))
        .bind(stored(first.saturating_add(most)))
        .bind(result)
        .bind::<&str>(ItemState::Skipped.into())
        .execute(&mut self.transaction)
        .await?;
        self.job.ended.skipped += skipped.rows_affected();
        Ok(())
    }

    /// Writes the job as it stands now, and gives it back.
    ///
    /// # Errors
    /// When nothing was changed, or it is unknown whether it was: the connection was lost during the
    /// commit.
    pub(crate) async fn end(mut self) -> Result<(), sqlx::Error> {
        let job = &self.job;
        sqlx::query(
            "-- write_job
             UPDATE job
             SET state = $2, reason = $3, step = $4, begun = $5, succeeded = $6, failed = $7,
                 skipped = $8, begins_at = $9,
                 ended_at = $10
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
        .bind(job.begins_at.map(Time))
        .bind(job.ended_at.map(Time))
        .execute(&mut self.transaction)
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

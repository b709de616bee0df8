//! Jobs and their items, for an operator.

use countersign_protocol::UnixMillis;
use sqlx::FromRow;
use uuid::Uuid;

use super::JobRow;
use crate::ledger::Ledger;
use crate::ledger::columns::Time;
use crate::rules::job::{ItemState, Job};

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

impl Ledger {
    /// A job.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn job(&self, id: Uuid) -> Result<Option<Job>, sqlx::Error> {
        let row: Option<JobRow> = sqlx::query_as(job_query!("job", "FROM job WHERE job_id = $1"))
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        Ok(row.map(|row| row.job))
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
        Ok(rows.into_iter().map(|row| (row.created_at_us, row.job)).collect())
    }

    /// Deletes up to `limit` items of one job that ended before this moment; the job itself stays. `false`: there is
    /// no such job with items.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn forget_items(
        &self,
        before: UnixMillis,
        limit: u16,
    ) -> Result<bool, sqlx::Error> {
        let (found,): (bool,) = sqlx::query_as(
            "-- forget_items
             WITH old AS (
                 SELECT job_id FROM job
                 WHERE items_kept AND ended_at IS NOT NULL AND ended_at < $1
                 ORDER BY ended_at LIMIT 1
                 FOR UPDATE SKIP LOCKED
             ), deleted AS (
                 DELETE FROM job_item WHERE (job_id, position) IN (
                     SELECT job_id, position FROM job_item
                     WHERE job_id = (SELECT job_id FROM old) ORDER BY position LIMIT $2)
                 RETURNING position
             ), done AS (
                 UPDATE job SET items_kept = FALSE
                 WHERE job_id = (SELECT job_id FROM old) AND (SELECT count(*) FROM deleted) < $2
             )
             SELECT EXISTS (SELECT FROM old)",
        )
        .bind(Time(before))
        .bind(i64::from(limit))
        .fetch_one(self.pool())
        .await?;
        Ok(found)
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
}

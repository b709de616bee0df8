//! A job is created with all its items.

use std::time::Duration;

use countersign_postgres::Transaction;
use countersign_protocol::MessageId;

use super::{stored, uuids};
use crate::ledger::browse::{bound, with_groups};
use crate::ledger::{Counted, Ledger, committed};
use crate::rules::job::JobState;
use crate::rules::new_job::{NewJob, Selection};

/// Whether a job was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// It was.
    Now,
    /// It was there already: its request came before.
    Before,
    /// There is another job of this id.
    AsAnother,
}

/// How long one statement may take that makes a job's items: there may be a million.
const CREATION: Duration = Duration::from_secs(45);

impl Ledger {
    /// Creates a job and its items, however many, unless there is a job of this id.
    ///
    /// # Errors
    /// When the database does not answer: it is unknown then whether the job exists.
    pub(crate) async fn create_job(&self, new: &NewJob) -> Result<Created, sqlx::Error> {
        let mut transaction = Transaction::open(&self.pool().within(CREATION), "").await?;
        let inserted = sqlx::query(
            "-- create_job
             INSERT INTO job (job_id, action, selection, who, why, rate, step, state, items)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)
             ON CONFLICT (job_id) DO NOTHING",
        )
        .bind(new.id)
        .bind::<&str>(new.action.into())
        .bind(new.selection.text())
        .bind(&new.who)
        .bind(&new.why)
        .bind(new.rate)
        .bind(stored(new.step))
        .bind::<&str>(JobState::Running.into())
        .execute(&mut transaction)
        .await?;
        if inserted.rows_affected() == 0 {
            let (is_same,): (bool,) = sqlx::query_as(
                "-- same_job
                 SELECT (action, selection, who, why) = ($2, $3, $4, $5) FROM job WHERE job_id = $1",
            )
            .bind(new.id)
            .bind::<&str>(new.action.into())
            .bind(new.selection.text())
            .bind(&new.who)
            .bind(&new.why)
            .fetch_one(&mut transaction)
            .await?;
            let is_same = is_same && has_items(&mut transaction, new).await?;
            transaction.rollback().await?;
            return Ok(if is_same { Created::Before } else { Created::AsAnother });
        }
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
                .fetch_one(&mut transaction)
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
                bound(sqlx::query_as(sql), filter).bind(new.id).fetch_one(&mut transaction).await?
            }
        };
        sqlx::query(
            "-- begin_job
             UPDATE job
             SET items = $2, state = CASE $2 WHEN 0 THEN $3 ELSE state END,
                 ended_at = CASE $2 WHEN 0 THEN now() END
             WHERE job_id = $1",
        )
        .bind(new.id)
        .bind(items)
        .bind::<&str>(JobState::Done.into())
        .execute(&mut transaction)
        .await?;
        committed(transaction).await.map(|()| Created::Now)
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
}

/// Whether the job of this id is about the same messages: a selection by a filter says so itself.
async fn has_items(transaction: &mut Transaction, new: &NewJob) -> Result<bool, sqlx::Error> {
    let Selection::Ids(ids) = &new.selection else { return Ok(true) };
    sqlx::query_scalar(
        "-- same_items
         SELECT NOT EXISTS (
             SELECT FROM job_item WHERE job_id = $1 AND message_id <> ALL($2)
         )",
    )
    .bind(new.id)
    .bind(uuids(ids))
    .fetch_one(transaction)
    .await
}

//! Due rows: looked for upstream by upstream, so that a paused upstream costs nothing,
//! however many rows it has.

use std::time::Duration;

use countersign_postgres::Transaction;
use countersign_protocol::Name;

use super::columns::texts;
use super::overdue::{Locked, overdue_columns};
use super::{Ledger, Taken};

impl Ledger {
    /// How long until the next row is due, zero if one is. `None` if none will be.
    ///
    /// Rows of the upstreams that are `paused` count only when they are to be given up: when
    /// their check came due, or a person asked for them, `park_after` ago.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn next_due(
        &self,
        paused: &[Name],
        park_after: Duration,
    ) -> Result<Option<Duration>, sqlx::Error> {
        let ms: Option<i64> = sqlx::query_scalar(concat!(
            "-- next_due
             ",
            open_upstreams!(),
            "
             SELECT ceil(extract(epoch FROM least(
                 (SELECT min(first.due_at)
                  FROM open_upstream CROSS JOIN LATERAL (
                      SELECT due_at FROM overdue
                      WHERE overdue.upstream = open_upstream.upstream AND due_at IS NOT NULL
                      ORDER BY due_at LIMIT 1
                  ) AS first
                  WHERE open_upstream.upstream <> ALL($1)),
                 (SELECT min(greatest(first.due_at, first.opened_at + make_interval(secs => $2)))
                  FROM UNNEST($1::text[]) AS paused (upstream) CROSS JOIN LATERAL (
                      SELECT due_at, greatest(since, granted_at) AS opened_at FROM overdue
                      WHERE overdue.upstream = paused.upstream AND due_at IS NOT NULL
                      ORDER BY greatest(since, granted_at) LIMIT 1
                  ) AS first)
             ) - now()) * 1000)::bigint"
        ))
        .bind(texts(paused))
        .bind(park_after.as_secs_f64())
        .fetch_one(&self.pool)
        .await?;
        Ok(ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }

    /// Locks rows that are due, and skips those that another transaction has locked: of each
    /// upstream up to `limit`,
    /// oldest first, and of those that are `paused` only the ones to be given up.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn take_due(
        &self,
        limit: u16,
        paused: &[Name],
        park_after: Duration,
    ) -> Result<Option<Taken>, sqlx::Error> {
        let mut transaction = Transaction::open(&self.pool, "").await?;
        let rows: Vec<Locked> = sqlx::query_as(concat!(
            "-- take_due
             ",
            open_upstreams!(),
            "
             SELECT ",
            overdue_columns!(),
            "
             FROM open_upstream AS open (name) CROSS JOIN LATERAL (
                 SELECT * FROM overdue
                 WHERE overdue.upstream = open.name
                   AND due_at IS NOT NULL AND due_at <= now()
                 ORDER BY due_at
                 LIMIT $2
                 FOR UPDATE SKIP LOCKED
             ) AS taken
             WHERE open.name <> ALL($1)
             UNION ALL
             SELECT ",
            overdue_columns!(),
            "
             FROM UNNEST($1::text[]) AS paused (name) CROSS JOIN LATERAL (
                 SELECT * FROM overdue
                 WHERE overdue.upstream = paused.name AND due_at IS NOT NULL
                   AND greatest(since, granted_at) <= now() - make_interval(secs => $3)
                   AND due_at <= now()
                 ORDER BY greatest(since, granted_at)
                 LIMIT $2
                 FOR UPDATE SKIP LOCKED
             ) AS given_up"
        ))
        .bind(texts(paused))
        .bind(i64::from(limit))
        .bind(park_after.as_secs_f64())
        .fetch_all(&mut transaction)
        .await?;
        Taken::read(transaction, rows).await
    }
}

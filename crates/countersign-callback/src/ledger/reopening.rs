//! Rows that a further check, or their upstream's records, change after they were noted.

use countersign_postgres::Transaction;
use countersign_protocol::{DatabaseId, MessageId, Name};
use uuid::Uuid;

use super::columns::{Ids, joined};
use super::overdue::{DueCheck, Taken};
use super::transitions::write;
use super::{Ledger, committed};
use crate::rules::filter;
use crate::rules::overdue::{CommittedAfterAll, Key, Transition, United};
use crate::rules::states::StateName;

impl Ledger {
    /// The rows of these checks that wait for fewer consumers than their check names, or that name
    /// another database.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn differing(&self, checks: &[&DueCheck]) -> Result<Vec<Key>, sqlx::Error> {
        let keys = || checks.iter().map(|check| &check.message.key);
        let Some(ids) = Ids::of(keys().map(|key| key.message_id)) else { return Ok(Vec::new()) };
        let consumers: Vec<String> =
            checks.iter().map(|check| joined(&check.message.consumers)).collect();
        let databases: Vec<Option<Uuid>> =
            checks.iter().map(|check| check.database.map(DatabaseId::uuid)).collect();
        sqlx::query_as(
            "-- differing
             SELECT DISTINCT overdue.message_id, overdue.upstream
             FROM UNNEST($3::uuid[], $4::text[], $5::text[], $6::uuid[])
                 AS check_of (message_id, upstream, consumers, database)
             JOIN overdue USING (message_id, upstream)
             WHERE message_id BETWEEN $1 AND $2
               AND (NOT overdue.consumers @> string_to_array(check_of.consumers, ',')
                    OR check_of.database <> overdue.database
                    OR (check_of.database IS NOT NULL AND overdue.database IS NULL))",
        )
        .bind(ids.first)
        .bind(ids.last)
        .bind(keys().map(|key| key.message_id.uuid()).collect::<Vec<_>>())
        .bind(keys().map(|key| key.upstream.as_str()).collect::<Vec<_>>())
        .bind(consumers)
        .bind(databases)
        .fetch_all(self.pool())
        .await
    }

    /// Of these messages of an upstream, those of which an upstream has said that they never
    /// committed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn denied(
        &self,
        upstream: &Name,
        ids: impl Iterator<Item = MessageId>,
    ) -> Result<Vec<Key>, sqlx::Error> {
        let Some(ids) = Ids::of(ids) else { return Ok(Vec::new()) };
        sqlx::query_as(
            "-- denied
             SELECT message_id, upstream FROM overdue
             WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)
               AND upstream = $4 AND state = ANY($5)",
        )
        .bind(ids.first)
        .bind(ids.last)
        .bind(ids.all)
        .bind(upstream.as_str())
        .bind(filter::texts(&[StateName::NeverCommitted, StateName::Conflict]))
        .fetch_all(self.pool())
        .await
    }
}

impl Taken {
    /// Writes rows as further checks leave them, and gives the locks back.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) async fn unite(mut self, united: &[United]) -> Result<(), sqlx::Error> {
        let keys = || united.iter().map(|united| &united.key);
        sqlx::query(
            "-- unite
             UPDATE overdue
             SET consumers = string_to_array(united.consumers, ','), database = united.database
             FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::uuid[])
                 AS united (message_id, upstream, consumers, database)
             WHERE overdue.message_id = united.message_id AND overdue.upstream = united.upstream",
        )
        .bind(keys().map(|key| key.message_id.uuid()).collect::<Vec<_>>())
        .bind(keys().map(|key| key.upstream.as_str()).collect::<Vec<_>>())
        .bind(united.iter().map(|united| joined(&united.consumers)).collect::<Vec<_>>())
        .bind(united.iter().map(|u| u.database.map(DatabaseId::uuid)).collect::<Vec<_>>())
        .execute(&mut *self.transaction)
        .await?;
        let opened: Vec<Transition> =
            united.iter().filter_map(|united| united.opened.clone()).collect();
        open(&mut self.transaction, &opened).await?;
        committed(self.transaction).await
    }

    /// Opens rows again whose transactions committed in `database` after all, each by way of a
    /// conflict, and gives the locks back.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) async fn open_again(
        mut self,
        rows: &[CommittedAfterAll],
        database: Option<DatabaseId>,
    ) -> Result<(), sqlx::Error> {
        let conflicts: Vec<Transition> =
            rows.iter().filter_map(|row| row.conflict.clone()).collect();
        if !conflicts.is_empty() {
            write(&mut self.transaction, &conflicts).await?;
        }
        let opened: Vec<Transition> = rows.iter().map(|row| row.opened.clone()).collect();
        open(&mut self.transaction, &opened).await?;
        sqlx::query(
            "-- name_database
             UPDATE overdue SET database = $3
             FROM UNNEST($1::uuid[], $2::text[]) AS opened (message_id, upstream)
             WHERE overdue.message_id = opened.message_id AND overdue.upstream = opened.upstream",
        )
        .bind(opened.iter().map(|t| t.key.message_id.uuid()).collect::<Vec<_>>())
        .bind(opened.iter().map(|t| t.key.upstream.as_str()).collect::<Vec<_>>())
        .bind(database.map(DatabaseId::uuid))
        .execute(&mut *self.transaction)
        .await?;
        committed(self.transaction).await
    }
}

/// Opens closed rows. They are watched from now on: counted from their first check, a row that was
/// closed long ago would be given up at once.
async fn open(transaction: &mut Transaction, opened: &[Transition]) -> Result<(), sqlx::Error> {
    if opened.is_empty() {
        return Ok(());
    }
    write(transaction, opened).await?;
    sqlx::query(
        "-- watch_from_now
         UPDATE overdue SET since = now()
         FROM UNNEST($1::uuid[], $2::text[]) AS opened (message_id, upstream)
         WHERE overdue.message_id = opened.message_id AND overdue.upstream = opened.upstream",
    )
    .bind(opened.iter().map(|t| t.key.message_id.uuid()).collect::<Vec<_>>())
    .bind(opened.iter().map(|t| t.key.upstream.as_str()).collect::<Vec<_>>())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

//! What a further check, or the upstream's own records, change of rows after they were noted.

use countersign_protocol::{DatabaseId, MessageId, Name};
use uuid::Uuid;

use super::columns::{Ids, joined, stored_count, stored_origin};
use super::overdue::{DueCheck, Taken, confirmed_by};
use super::transitions::write;
use super::{Ledger, committed};
use crate::rules::filter;
use crate::rules::overdue::{Correction, Key, Transition};
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
            checks.iter().map(|check| stored_origin(check.origin)).collect();
        sqlx::query_as(
            "-- differing
             SELECT DISTINCT overdue.message_id, overdue.upstream
             FROM UNNEST($3::uuid[], $4::text[], $5::text[], $6::uuid[])
                 AS further (message_id, upstream, consumers, database)
             JOIN overdue USING (message_id, upstream)
             WHERE message_id BETWEEN $1 AND $2
               AND (NOT overdue.consumers @> string_to_array(further.consumers, ',')
                    OR (further.database IS NOT NULL
                        AND further.database IS DISTINCT FROM overdue.database))",
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

    /// Of these messages of an upstream, which its records say are committed in `database`, those
    /// whose rows say otherwise: closed as never committed, or to be asked for elsewhere.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn contradicted(
        &self,
        upstream: &Name,
        ids: impl Iterator<Item = MessageId>,
        database: Option<DatabaseId>,
    ) -> Result<Vec<Key>, sqlx::Error> {
        let Some(ids) = Ids::of(ids) else { return Ok(Vec::new()) };
        sqlx::query_as(
            "-- contradicted
             SELECT message_id, upstream FROM overdue
             WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3) AND upstream = $4
               AND (state = ANY($5)
                    OR (state = ANY($6) AND $7 IS NOT NULL AND database IS DISTINCT FROM $7))",
        )
        .bind(ids.first)
        .bind(ids.last)
        .bind(ids.all)
        .bind(upstream.as_str())
        .bind(filter::texts(&[StateName::NeverCommitted, StateName::Conflict]))
        .bind(filter::texts(&[StateName::Waiting, StateName::Asking, StateName::Parked]))
        .bind(database.map(DatabaseId::uuid))
        .fetch_all(self.pool())
        .await
    }
}

impl Taken {
    /// Writes corrections, and gives the locks back. A row that opens again is watched from now on:
    /// counted from its first check, a row that was closed long ago would be given up at once.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) async fn correct(mut self, corrections: &[Correction]) -> Result<(), sqlx::Error> {
        let of = |transition: fn(&Correction) -> &Option<Transition>| -> Vec<Transition> {
            corrections.iter().filter_map(|row| transition(row).clone()).collect()
        };
        // One after the other: a statement changes a row once.
        for transitions in [of(|row| &row.conflict), of(|row| &row.opened)] {
            if !transitions.is_empty() {
                write(&mut self.transaction, &transitions, confirmed_by(&self.rows)).await?;
            }
        }
        let keys = || corrections.iter().map(|row| &row.key);
        let granted = |row: &Correction| row.opened.as_ref().map(|_| stored_count(row.granted));
        sqlx::query(
            "-- correct
             UPDATE overdue
             SET consumers = string_to_array(corrected.consumers, ','),
                 database = corrected.database,
                 granted = coalesce(corrected.granted, overdue.granted),
                 granted_at = CASE WHEN corrected.granted IS NULL THEN overdue.granted_at
                                   ELSE now() END,
                 granted_by_person = overdue.granted_by_person AND corrected.granted IS NULL
             FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::integer[])
                 AS corrected (message_id, upstream, consumers, database, granted)
             WHERE overdue.message_id = corrected.message_id
               AND overdue.upstream = corrected.upstream",
        )
        .bind(keys().map(|key| key.message_id.uuid()).collect::<Vec<_>>())
        .bind(keys().map(|key| key.upstream.as_str()).collect::<Vec<_>>())
        .bind(corrections.iter().map(|row| joined(&row.consumers)).collect::<Vec<_>>())
        .bind(corrections.iter().map(|row| stored_origin(row.origin)).collect::<Vec<_>>())
        .bind(corrections.iter().map(granted).collect::<Vec<Option<i32>>>())
        .execute(&mut self.transaction)
        .await?;
        committed(self.transaction).await
    }
}

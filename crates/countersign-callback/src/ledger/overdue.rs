//! Rows of `overdue`: noted, and taken under their lock with what is recorded about them.

use std::collections::BTreeMap;

use countersign_postgres::Transaction;
use countersign_protocol::{MessageId, Name, UnixMillis};
use sqlx::FromRow;
use uuid::Uuid;

use super::columns::{Ids, joined, read_id, read_text, stored_total};
use super::transitions::write;
use super::{Due, Ledger, committed};
use crate::rules::budget::Tally;
use crate::rules::cause::Cause;
use crate::rules::filter;
use crate::rules::overdue::{Key, Overdue, Recorded, Report, Transition, Word};
use crate::rules::states::StateName;

/// A message to be noted as overdue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    /// Which, and who has to confirm it.
    pub(crate) due: Due,
    /// When its check was armed, on its upstream's clock.
    pub(crate) armed_at: UnixMillis,
    /// Why, for a person.
    pub(crate) reason: String,
}

impl Ledger {
    /// Notes messages as overdue, due to be judged at once. A message that is noted already stays
    /// as it is, be it open or closed. Says which ones are new.
    ///
    /// So that whoever judges them knows how many there are, they are counted in the same step, and
    /// with them the checks of `looked_up` that came due: theirs, and those that wrote nothing.
    ///
    /// # Errors
    /// When nothing was noted.
    pub(crate) async fn note_overdue(
        &self,
        late: &[Late],
        looked_up: &BTreeMap<Name, Tally>,
    ) -> Result<Vec<Key>, sqlx::Error> {
        let mut sorted: Vec<&Late> = late.iter().collect();
        sorted.sort_unstable_by(|a, b| a.due.key.cmp(&b.due.key));
        let ids: Vec<Uuid> = sorted.iter().map(|late| late.due.key.message_id.uuid()).collect();
        let upstreams: Vec<&str> =
            sorted.iter().map(|late| late.due.key.upstream.as_str()).collect();
        // An array of arrays would have to be rectangular; names hold no comma.
        let consumers: Vec<String> =
            sorted.iter().map(|late| joined(&late.due.consumers)).collect();
        let reasons: Vec<&str> = sorted.iter().map(|late| late.reason.as_str()).collect();
        let sent: Vec<i64> = sorted.iter().map(|late| late.armed_at.ms()).collect();
        let noted: Vec<KeyRow> = sqlx::query_as(
            "-- note_overdue
             WITH noted AS (
                 INSERT INTO overdue
                     (message_id, upstream, consumers, state, cause, reason, due_at, sent_at)
                 SELECT message_id, upstream, string_to_array(consumers, ','), $9, $5,
                        reason, now(), to_timestamp(sent_ms / 1000.0)
                 FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $8::bigint[])
                     AS entry (message_id, upstream, consumers, reason, sent_ms)
                 ON CONFLICT DO NOTHING
                 RETURNING message_id, upstream, state, cause, reason, resends
             ), event AS (
                 INSERT INTO overdue_event (message_id, upstream, to_state, cause, reason, resends)
                 SELECT message_id, upstream, state, cause, reason, resends FROM noted
             ), tallied AS (
                 INSERT INTO upstream_tally AS tally
                     (upstream, half_minute, looked_up, unconfirmed)
                 SELECT upstream, floor(extract(epoch FROM now()) / 30)::bigint, looked_up,
                        (SELECT count(*) FROM noted WHERE noted.upstream = checked.upstream)
                 FROM UNNEST($6::text[], $7::bigint[]) AS checked (upstream, looked_up)
                 ON CONFLICT (upstream, half_minute) DO UPDATE
                 SET looked_up = tally.looked_up + excluded.looked_up,
                     unconfirmed = tally.unconfirmed + excluded.unconfirmed
             )
             SELECT message_id, upstream FROM noted",
        )
        .bind(ids)
        .bind(upstreams)
        .bind(consumers)
        .bind(reasons)
        .bind::<&str>(Cause::NotConfirmed.into())
        .bind(looked_up.keys().map(Name::as_str).collect::<Vec<_>>())
        .bind(looked_up.values().map(|t| stored_total(t.looked_up)).collect::<Vec<_>>())
        .bind(sent)
        .bind::<&str>(StateName::Waiting.into())
        .fetch_all(&self.pool)
        .await?;
        noted.into_iter().map(KeyRow::read).collect()
    }

    /// Locks these rows, waiting for whoever has them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn take(&self, keys: &[Key]) -> Result<Option<Taken>, sqlx::Error> {
        let mut transaction = Transaction::open(&self.pool, "").await?;
        let rows = lock(&mut transaction, keys).await?;
        Taken::read(transaction, rows).await
    }

    /// Of these messages, the overdue ones that a confirm or a rejection may concern.
    ///
    /// To be called after what was said is committed: a row that is not seen here is judged later
    /// than that, and its judge sees what was said.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn concerned(&self, ids: &[MessageId]) -> Result<Vec<Key>, sqlx::Error> {
        let Some(ids) = Ids::of(ids.iter().copied()) else { return Ok(Vec::new()) };
        let keys: Vec<KeyRow> = sqlx::query_as(
            "-- concerned
             SELECT message_id, upstream FROM overdue
             WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)
               AND state = ANY($4)",
        )
        .bind(ids.first)
        .bind(ids.last)
        .bind(ids.all)
        .bind(filter::texts(&StateName::all_that(|are| are.heeds_consumers)))
        .fetch_all(&self.pool)
        .await?;
        keys.into_iter().map(KeyRow::read).collect()
    }

    /// Deletes up to `limit` rows that were closed longer ago than the retention and whose ids are
    /// older than it too: a check for such an id is refused, so nothing can ask for the row again.
    /// Parked rows stay. Says how many were deleted.
    ///
    /// # Errors
    /// When nothing was deleted.
    pub(crate) async fn prune(&self, now: UnixMillis, limit: u16) -> Result<u64, sqlx::Error> {
        let before = now.before(self.retention);
        let deleted = sqlx::query(
            "-- prune
             DELETE FROM overdue WHERE (message_id, upstream) IN (
                 SELECT message_id, upstream FROM overdue
                 WHERE closed_at < to_timestamp($1::bigint / 1000.0) AND message_id < $2
                 ORDER BY closed_at LIMIT $3
                 FOR UPDATE SKIP LOCKED
             )",
        )
        .bind(before.ms())
        .bind(MessageId::from_parts(before, [0; 10]).uuid())
        .bind(i64::from(limit))
        .execute(&self.pool)
        .await?;
        Ok(deleted.rows_affected())
    }
}

/// Rows under their lock, with what is recorded about them.
#[derive(Debug)]
#[must_use = "dropped without `write`, the locks are given back and nothing is changed"]
pub(crate) struct Taken {
    pub(super) transaction: Transaction,
    /// The rows, and what is recorded about each, read under the lock.
    pub(crate) rows: Vec<(Overdue, Recorded)>,
    /// The database's clock.
    pub(crate) now: UnixMillis,
}

impl Taken {
    /// `None` if there are no rows.
    ///
    /// What is recorded is read by a statement of its own, begun when the locks are had. A check
    /// can note a row while the transaction that confirms the message is under way: neither sees
    /// the other (reproduced on Postgres 15). So whoever confirms looks for rows *after* its commit,
    /// and whoever judges looks for confirms *under the lock*: one of the two sees the other.
    pub(super) async fn read(
        mut transaction: Transaction,
        rows: Vec<OverdueRow>,
    ) -> Result<Option<Self>, sqlx::Error> {
        let Some(now) = rows.first().map(|row| UnixMillis::from_ms(row.now_ms)) else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let overdue: Vec<Overdue> =
            rows.into_iter().map(OverdueRow::read).collect::<Result<_, _>>()?;
        let ids = overdue.iter().map(|overdue| overdue.key.message_id);
        let recorded = recorded(&mut transaction, ids).await?;
        let with_recorded = |overdue: Overdue| {
            let recorded = recorded.get(&overdue.key.message_id).cloned().unwrap_or_default();
            (overdue, recorded)
        };
        let rows = overdue.into_iter().map(with_recorded).collect();
        Ok(Some(Self { transaction, rows, now }))
    }

    /// Writes the changes with their history, and gives the locks back.
    ///
    /// # Errors
    /// When nothing was written, or nobody knows whether it was: the connection was lost during the
    /// commit. To be done again from the taking on, which then sees what is there.
    pub(crate) async fn write(mut self, transitions: &[Transition]) -> Result<(), sqlx::Error> {
        write(&mut self.transaction, transitions).await?;
        committed(self.transaction).await
    }
}

/// Locks these rows, waiting for whoever has them.
pub(super) async fn lock(
    transaction: &mut Transaction,
    keys: &[Key],
) -> Result<Vec<OverdueRow>, sqlx::Error> {
    let ids: Vec<Uuid> = keys.iter().map(|key| key.message_id.uuid()).collect();
    let upstreams: Vec<&str> = keys.iter().map(|key| key.upstream.as_str()).collect();
    sqlx::query_as(
        "-- take
         SELECT message_id, upstream, consumers, state, reason, resends, calls_not_made, lease,
                floor(extract(epoch FROM due_at) * 1000)::bigint AS due_at_ms, granted, floor(extract(epoch FROM granted_at) * 1000)::bigint AS granted_at_ms,
                floor(extract(epoch FROM since) * 1000)::bigint AS since_ms,
                floor(extract(epoch FROM missing_after) * 1000)::bigint AS missing_after_ms,
                floor(extract(epoch FROM sent_at) * 1000)::bigint AS sent_at_ms,
                floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
         FROM overdue
         WHERE (message_id, upstream) IN (SELECT * FROM UNNEST($1::uuid[], $2::text[]))
         ORDER BY message_id, upstream
         FOR UPDATE",
    )
    .bind(ids)
    .bind(upstreams)
    .fetch_all(&mut **transaction)
    .await
}

pub(super) async fn recorded(
    transaction: &mut Transaction,
    ids: impl Iterator<Item = MessageId>,
) -> Result<BTreeMap<MessageId, Recorded>, sqlx::Error> {
    let Some(ids) = Ids::of(ids) else {
        return Ok(BTreeMap::new());
    };
    let rows: Vec<RecordedRow> = sqlx::query_as(
        "-- recorded
         SELECT message_id, consumer, 'processed' AS outcome, '' AS reason, NULL AS until_ms
         FROM confirmation
         WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)
         UNION ALL
         SELECT message_id, consumer, outcome, reason,
                floor(extract(epoch FROM until) * 1000)::bigint
         FROM consumer_report
         WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)",
    )
    .bind(ids.first)
    .bind(ids.last)
    .bind(ids.all)
    .fetch_all(&mut **transaction)
    .await?;
    let mut recorded: BTreeMap<MessageId, Recorded> = BTreeMap::new();
    for row in rows {
        let known = recorded.entry(read_id(row.message_id)?).or_default();
        let consumer = read_text(&row.consumer)?;
        let word = match (row.outcome.as_str(), row.until_ms) {
            ("processed", _) => {
                known.confirmed.push(consumer);
                continue;
            }
            ("retrying", Some(until)) => Word::Retrying { until: UnixMillis::from_ms(until) },
            _ => Word::Rejected,
        };
        known.reports.push(Report { consumer, word, reason: row.reason });
    }
    Ok(recorded)
}

#[derive(FromRow)]
pub(super) struct KeyRow {
    pub(super) message_id: Uuid,
    pub(super) upstream: String,
}

#[derive(FromRow)]
pub(super) struct OverdueRow {
    message_id: Uuid,
    upstream: String,
    consumers: Vec<String>,
    state: String,
    reason: String,
    resends: i32,
    calls_not_made: i32,
    due_at_ms: Option<i64>,
    lease: Option<Uuid>,
    granted: i32,
    granted_at_ms: Option<i64>,
    since_ms: i64,
    missing_after_ms: i64,
    sent_at_ms: Option<i64>,
    now_ms: i64,
}

#[derive(FromRow)]
struct RecordedRow {
    message_id: Uuid,
    consumer: String,
    outcome: String,
    reason: String,
    until_ms: Option<i64>,
}

impl KeyRow {
    pub(super) fn read(self) -> Result<Key, sqlx::Error> {
        Ok(Key { message_id: read_id(self.message_id)?, upstream: read_text(&self.upstream)? })
    }
}

impl OverdueRow {
    pub(super) fn read(self) -> Result<Overdue, sqlx::Error> {
        let key = KeyRow { message_id: self.message_id, upstream: self.upstream }.read()?;
        let name: StateName = read_text(&self.state)?;
        let state = name.with(self.due_at_ms.map(UnixMillis::from_ms), self.lease);
        let state = state
            .ok_or_else(|| sqlx::Error::Decode(format!("{name}: no due_at or lease").into()))?;
        Ok(Overdue {
            key,
            consumers: self
                .consumers
                .iter()
                .map(|name| read_text(name))
                .collect::<Result<_, _>>()?,
            state,
            reason: self.reason,
            resends: u32::try_from(self.resends).unwrap_or(0),
            calls_not_made: u32::try_from(self.calls_not_made).unwrap_or(0),
            granted: u32::try_from(self.granted).unwrap_or(0),
            granted_at: self.granted_at_ms.map(UnixMillis::from_ms),
            since: UnixMillis::from_ms(self.since_ms),
            missing_after: UnixMillis::from_ms(self.missing_after_ms),
            sent_at: self.sent_at_ms.map(UnixMillis::from_ms),
        })
    }
}

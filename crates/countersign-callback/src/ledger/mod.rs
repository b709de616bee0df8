//! The ledger: all the SQL of this crate, in this folder.
//!
//! Everything is sorted by key before it is written, so that two writers never wait for each other
//! in a circle. Statements over partitioned tables carry the bounds of their ids: without them
//! every partition is searched (4.6 ms instead of 0.3 for 500 ids over 30 partitions).

/// `WITH RECURSIVE open_upstream AS (…)`: every upstream with a row that is due some time, then one
/// NULL. A loose scan: one probe of an index for each upstream, however many rows it has.
macro_rules! open_upstreams {
    () => {
        "WITH RECURSIVE open_upstream AS (
             (SELECT upstream FROM overdue
              WHERE due_at IS NOT NULL ORDER BY upstream LIMIT 1)
             UNION ALL
             SELECT (SELECT overdue.upstream FROM overdue
                     WHERE due_at IS NOT NULL AND overdue.upstream > open_upstream.upstream
                     ORDER BY overdue.upstream LIMIT 1)
             FROM open_upstream WHERE upstream IS NOT NULL
         )"
    };
}

mod due;

mod budget;

mod markers;

mod progress;

mod browse;

mod jobs;

mod rolled_back;

mod unconfirmed;

mod transitions;

mod story;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use countersign_postgres::{CommitError, Partitions, Transaction, sqlstate};
use countersign_protocol::{Attempt, MessageId, Name, UnixMillis};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

pub(crate) use self::browse::{Counted, Listed, Place};
pub(crate) use self::budget::{KnownUpstream, Tallies, merge};
pub(crate) use self::jobs::{Began, ListedItem, Turn};
pub(crate) use self::markers::ShardMarkers;
pub(crate) use self::progress::{Reached, Reading, Watched};
pub(crate) use self::rolled_back::{Armed, KEPT};
use self::transitions::write;
use crate::rules::cause::Cause;
use crate::rules::filter;
use crate::rules::overdue::{Key, Overdue, Recorded, Report, Transition, Word};
use crate::rules::states::StateName;

/// The ledger's migrations.
pub(crate) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/callback");

/// The ledger's database.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pool: PgPool,
    retention: Duration,
}

/// "Processed": one row of `confirmation`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Confirmation {
    /// Which message.
    pub(crate) message_id: MessageId,
    /// By whom.
    pub(crate) consumer: Name,
    /// Which publish of it, if the consumer said.
    pub(crate) attempt: Option<Attempt>,
}

/// A message whose check came due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Which message of whom.
    pub(crate) key: Key,
    /// Who has to confirm it.
    pub(crate) consumers: Vec<Name>,
}

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
    /// The ledger in this database, whose migrations are applied.
    #[must_use]
    pub(crate) fn new(pool: PgPool, retention: Duration) -> Self {
        Self { pool, retention }
    }

    /// Its partitioned tables.
    #[must_use]
    pub(crate) fn partitioned(&self) -> [Partitions; 2] {
        ["confirmation", "consumer_report"].map(|table| Partitions::new(table, self.retention))
    }

    /// The database.
    #[must_use]
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The database's clock.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn now(&self) -> Result<UnixMillis, sqlx::Error> {
        let ms = sqlx::query_scalar(
            "-- now
             SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(UnixMillis::from_ms(ms))
    }

    /// Records who has processed what. What is recorded already stays as it is.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub(crate) async fn confirm(&self, confirmations: &[Confirmation]) -> Result<(), sqlx::Error> {
        if confirmations.is_empty() {
            return Ok(());
        }
        let mut sorted: Vec<&Confirmation> = confirmations.iter().collect();
        sorted.sort_unstable();
        let ids: Vec<Uuid> = sorted.iter().map(|c| c.message_id.uuid()).collect();
        let consumers: Vec<&str> = sorted.iter().map(|c| c.consumer.as_str()).collect();
        let attempts: Vec<Option<i32>> = sorted.iter().map(|c| stored_attempt(c.attempt)).collect();
        sqlx::query(
            "-- confirm
             INSERT INTO confirmation (message_id, consumer, attempt)
             SELECT message_id, consumer, attempt
             FROM UNNEST($1::uuid[], $2::text[], $3::integer[])
                 AS entry (message_id, consumer, attempt)
             ON CONFLICT DO NOTHING",
        )
        .bind(ids)
        .bind(consumers)
        .bind(attempts)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Records what consumers said instead of a confirm: one report for each message and consumer.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub(crate) async fn report(
        &self,
        reports: &BTreeMap<(MessageId, Name), Report>,
    ) -> Result<(), sqlx::Error> {
        if reports.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = reports.keys().map(|(id, _)| id.uuid()).collect();
        let consumers: Vec<&str> = reports.values().map(|r| r.consumer.as_str()).collect();
        let outcomes: Vec<&str> = reports.values().map(|r| r.word.into()).collect();
        let reasons: Vec<&str> = reports.values().map(|r| r.reason.as_str()).collect();
        let untils: Vec<Option<i64>> =
            reports.values().map(|r| r.word.until().map(UnixMillis::ms)).collect();
        sqlx::query(
            "-- report
             INSERT INTO consumer_report (message_id, consumer, outcome, reason, until)
             SELECT message_id, consumer, outcome, reason, to_timestamp(until_ms / 1000.0)
             FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[])
                 AS entry (message_id, consumer, outcome, reason, until_ms)
             ON CONFLICT (message_id, consumer) DO UPDATE
             SET outcome = excluded.outcome, reason = excluded.reason, until = excluded.until,
                 recorded_at = excluded.recorded_at
             WHERE consumer_report.outcome = 'retrying'",
        )
        .bind(ids)
        .bind(consumers)
        .bind(outcomes)
        .bind(reasons)
        .bind(untils)
        .execute(&self.pool)
        .await?;
        Ok(())
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

    /// Of these messages, those that somebody has not confirmed, with who has not.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn unconfirmed<'a>(
        &self,
        due: impl Iterator<Item = &'a Due> + Clone,
    ) -> Result<BTreeMap<MessageId, Vec<Name>>, sqlx::Error> {
        let Some(ids) = Ids::of(due.clone().map(|due| due.key.message_id)) else {
            return Ok(BTreeMap::new());
        };
        let expected = || {
            let pairs = |due: &'a Due| due.consumers.iter().map(|name| (due.key.message_id, name));
            due.clone().flat_map(pairs)
        };
        let messages: Vec<Uuid> = expected().map(|(id, _)| id.uuid()).collect();
        let consumers: Vec<&str> = expected().map(|(_, name)| name.as_str()).collect();
        // EXCEPT is always hashed or sorted. An anti-join is estimated at a few rows when the plan
        // is a generic one, and then compares everything with everything.
        let missing: Vec<(Uuid, String)> = sqlx::query_as(
            "-- unconfirmed
             SELECT message_id, consumer
             FROM UNNEST($4::uuid[], $5::text[]) AS expected (message_id, consumer)
             EXCEPT
             SELECT message_id, consumer FROM confirmation
             WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)",
        )
        .bind(ids.first)
        .bind(ids.last)
        .bind(ids.all)
        .bind(messages)
        .bind(consumers)
        .fetch_all(&self.pool)
        .await?;
        let mut unconfirmed: BTreeMap<MessageId, Vec<Name>> = BTreeMap::new();
        for (id, consumer) in missing {
            unconfirmed.entry(read_id(id)?).or_default().push(read_text(&consumer)?);
        }
        unconfirmed.values_mut().for_each(|names| names.sort_unstable());
        Ok(unconfirmed)
    }

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
        looked_up: &Tallies,
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
    transaction: Transaction,
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
    async fn read(
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

/// Whether Postgres refused a row for want of a partition: not the row's fault if there should be
/// one.
#[must_use]
pub(crate) fn lacks_partition(error: &sqlx::Error) -> bool {
    /// `check_violation`; that of a constraint has its name.
    const CHECK_VIOLATION: &str = "23514";
    sqlstate(error).as_deref() == Some(CHECK_VIOLATION)
        && error.as_database_error().is_some_and(|error| error.constraint().is_none())
}

async fn committed(transaction: Transaction) -> Result<(), sqlx::Error> {
    transaction.commit().await.map_err(|error| match error {
        CommitError::NotCommitted(cause) | CommitError::Unknown(cause) => cause,
    })
}

/// Locks these rows, waiting for whoever has them.
async fn lock(transaction: &mut Transaction, keys: &[Key]) -> Result<Vec<OverdueRow>, sqlx::Error> {
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

async fn recorded(
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

/// Ids to look up, with their bounds.
struct Ids {
    first: Uuid,
    last: Uuid,
    all: Vec<Uuid>,
}

impl Ids {
    /// `None` if there are none.
    fn of(ids: impl Iterator<Item = MessageId>) -> Option<Self> {
        let mut all: Vec<Uuid> = ids.map(MessageId::uuid).collect();
        all.sort_unstable();
        all.dedup();
        Some(Self { first: *all.first()?, last: *all.last()?, all })
    }
}

#[derive(FromRow)]
struct KeyRow {
    message_id: Uuid,
    upstream: String,
}

#[derive(FromRow)]
struct OverdueRow {
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
    fn read(self) -> Result<Key, sqlx::Error> {
        Ok(Key { message_id: read_id(self.message_id)?, upstream: read_text(&self.upstream)? })
    }
}

impl OverdueRow {
    fn read(self) -> Result<Overdue, sqlx::Error> {
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

fn read_id(id: Uuid) -> Result<MessageId, sqlx::Error> {
    MessageId::try_from(id).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn read_text<T: FromStr<Err: Display>>(text: &str) -> Result<T, sqlx::Error> {
    text.parse().map_err(|error: T::Err| sqlx::Error::Decode(error.to_string().into()))
}

fn joined(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(",")
}

fn texts(names: &[Name]) -> Vec<&str> {
    names.iter().map(Name::as_str).collect()
}

/// A number that no column can hold counts as not said.
fn stored_attempt(attempt: Option<Attempt>) -> Option<i32> {
    attempt.and_then(|attempt| i32::try_from(attempt.number()).ok())
}

fn stored_total(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn stored_count(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

//! Rows of `overdue`: noted, and taken under their lock with what is recorded about them.

use std::collections::BTreeMap;

use countersign_postgres::{Transaction, this_machine};
use countersign_protocol::{ArmingId, MessageId, Name, UnixMillis};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use super::columns::{Id, Ids, Text, Time, joined, read_origin, stored_origin, stored_total};
use super::transitions::write;
use super::{Expected, Ledger, committed};
use crate::rules::budget::Tally;
use crate::rules::cause::Cause;
use crate::rules::filter;
use crate::rules::origin::Origin;
use crate::rules::overdue::{Key, Overdue, Recorded, Report, Transition, Word};
use crate::rules::states::StateName;

/// What a row of `overdue` is read from as [`Locked`], whatever its table is called in the statement.
macro_rules! overdue_columns {
    () => {
        "message_id, upstream, database, consumers, state, reason, resends, calls_not_made, lease, due_at,
         granted, granted_at, granted_by_person, since, missing_after, sent_at, confirmed, clock_timestamp() AS now"
    };
}

pub(super) use overdue_columns;

/// A check that came due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DueCheck {
    /// The message, and the consumers that have to confirm it.
    pub(crate) message: Expected,
    /// The database in which the message's transaction commits, if the check says.
    pub(crate) origin: Origin,
    /// When the upstream armed the check, on the upstream's clock.
    pub(crate) armed_at: UnixMillis,
    /// The arming of the message that this is the check of, if the check says.
    pub(crate) arming: Option<ArmingId>,
}

impl Ledger {
    /// Notes the messages of these checks as overdue, each with the reason for an operator, due to be
    /// judged at once. A row that is there already stays as it is, be it open or closed. Returns the
    /// keys of the new rows.
    ///
    /// The same statement counts the new rows, and the checks of `looked_up` that came due: those of
    /// the rows, and those that wrote nothing. So a round that sees the rows sees their number.
    ///
    /// # Errors
    /// When nothing was noted.
    pub(crate) async fn note_overdue(
        &self,
        unconfirmed: &[(&DueCheck, String)],
        looked_up: &BTreeMap<Name, Tally>,
    ) -> Result<Vec<Key>, sqlx::Error> {
        let mut sorted: Vec<&(&DueCheck, String)> = unconfirmed.iter().collect();
        sorted.sort_unstable_by(|(a, _), (b, _)| a.message.key.cmp(&b.message.key));
        let keys = || sorted.iter().map(|(check, _)| &check.message.key);
        let ids: Vec<Uuid> = keys().map(|key| key.message_id.uuid()).collect();
        let upstreams: Vec<&str> = keys().map(|key| key.upstream.as_str()).collect();
        // An array of arrays would have to be rectangular; names hold no comma.
        let consumers: Vec<String> =
            sorted.iter().map(|(check, _)| joined(&check.message.consumers)).collect();
        let reasons: Vec<&str> = sorted.iter().map(|(_, reason)| reason.as_str()).collect();
        let databases: Vec<Option<Uuid>> =
            sorted.iter().map(|(check, _)| stored_origin(check.origin)).collect();
        let sent: Vec<Time> = sorted.iter().map(|(check, _)| Time(check.armed_at)).collect();
        sqlx::query_as(
            "-- note_overdue
             WITH present AS (
                 -- For some seconds this service does not know that the database's clock has become wrong:
                 -- by a clock that is days behind, the row would be past its time once that is right again.
                 SELECT CASE WHEN now() BETWEEN $11 - interval '1 hour' AND $11 + interval '1 hour'
                             THEN now() ELSE $11 END AS at
             ), noted AS (
                 INSERT INTO overdue
                     (message_id, upstream, database, consumers, state, cause, reason, due_at,
                      since, missing_after, sent_at)
                 SELECT message_id, upstream, database, string_to_array(consumers, ','), $9, $5,
                        reason, present.at, present.at, present.at, sent_at
                 FROM present, UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $8::timestamptz[],
                             $10::uuid[])
                     AS entry (message_id, upstream, consumers, reason, sent_at, database)
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
        .bind(databases)
        .bind(Time(this_machine()))
        .fetch_all(&self.pool)
        .await
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
        sqlx::query_as(
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
        .await
    }

    /// Deletes up to `limit` rows that were closed longer ago than the retention and whose ids are
    /// older than it too: a check for such an id is refused, so nothing can ask for the row again.
    /// Parked rows stay. Says how many were deleted.
    ///
    /// # Errors
    /// When nothing was deleted.
    pub(crate) async fn prune(&self, now: UnixMillis, limit: u16) -> Result<u64, sqlx::Error> {
        let before = now.before(self.retention);
        // A conflict waits for an operator, however long it takes.
        let states = StateName::all_that(|state| state.closed && !state.unresolved);
        let deleted = sqlx::query(
            "-- prune
             DELETE FROM overdue WHERE (message_id, upstream) IN (
                 SELECT old.message_id, old.upstream
                 FROM UNNEST($4::text[]) AS closed (state) CROSS JOIN LATERAL (
                     SELECT message_id, upstream FROM overdue
                     WHERE overdue.state = closed.state AND closed_at < $1 AND message_id < $2
                     ORDER BY closed_at LIMIT $3
                     FOR UPDATE SKIP LOCKED
                 ) AS old
                 LIMIT $3
             )",
        )
        .bind(Time(before))
        .bind(MessageId::from_parts(before, [0; 10]).uuid())
        .bind(i64::from(limit))
        .bind(filter::texts(&states))
        .execute(&self.pool)
        .await?;
        Ok(deleted.rows_affected())
    }

    /// Deletes up to `limit` rows that were parked before this moment, and whose messages were made before
    /// it: a clock that was years behind once deletes nothing. Returns how many there were.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn forget_parked(
        &self,
        before: UnixMillis,
        limit: u16,
    ) -> Result<u64, sqlx::Error> {
        let deleted = sqlx::query(
            "-- forget_parked
             DELETE FROM overdue WHERE (message_id, upstream) IN (
                 SELECT message_id, upstream FROM overdue
                 WHERE parked_at < $1 AND message_id < $3
                 ORDER BY parked_at LIMIT $2
                 FOR UPDATE SKIP LOCKED
             )",
        )
        .bind(Time(before))
        .bind(i64::from(limit))
        .bind(MessageId::from_parts(before, [0; 10]).uuid())
        .execute(&self.pool)
        .await?;
        Ok(deleted.rows_affected())
    }

    /// How many rows were parked before this moment; no more than `most` are counted.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn parked_before(
        &self,
        moment: UnixMillis,
        most: u16,
    ) -> Result<u64, sqlx::Error> {
        let count: i64 = sqlx::query_scalar(
            "-- parked_before
             SELECT count(*) FROM (SELECT FROM overdue WHERE parked_at < $1 LIMIT $2) AS parked",
        )
        .bind(Time(moment))
        .bind(i64::from(most))
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(count).unwrap_or(0))
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
        rows: Vec<Locked>,
    ) -> Result<Option<Self>, sqlx::Error> {
        let Some(now) = rows.first().map(|row| row.now.0) else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let ids = rows.iter().map(|row| row.overdue.key.message_id);
        let recorded = recorded(&mut transaction, ids).await?;
        let with_recorded = |row: Locked| {
            let recorded = recorded.get(&row.overdue.key.message_id).cloned().unwrap_or_default();
            row.with(recorded)
        };
        let rows = rows.into_iter().map(with_recorded).collect();
        Ok(Some(Self { transaction, rows, now }))
    }

    /// Writes the changes with their history, and gives the locks back.
    ///
    /// # Errors
    /// When nothing was written, or nobody knows whether it was: the connection was lost during the
    /// commit. To be done again from the taking on, which then sees what is there.
    pub(crate) async fn write(mut self, transitions: &[Transition]) -> Result<(), sqlx::Error> {
        write(&mut self.transaction, transitions, confirmed_by(&self.rows)).await?;
        committed(self.transaction).await
    }
}

/// Who has confirmed each of these rows' messages, as a column holds it.
pub(super) fn confirmed_by(
    rows: &[(Overdue, Recorded)],
) -> impl Fn(&Key) -> Option<String> + use<'_> {
    let recorded: BTreeMap<&Key, &Recorded> =
        rows.iter().map(|(row, recorded)| (&row.key, recorded)).collect();
    move |key| recorded.get(key).map(|recorded| joined(&recorded.confirmed))
}

/// Locks these rows, waiting for whoever has them.
pub(super) async fn lock(
    transaction: &mut Transaction,
    keys: &[Key],
) -> Result<Vec<Locked>, sqlx::Error> {
    let ids: Vec<Uuid> = keys.iter().map(|key| key.message_id.uuid()).collect();
    let upstreams: Vec<&str> = keys.iter().map(|key| key.upstream.as_str()).collect();
    sqlx::query_as(concat!(
        "-- take
         SELECT ",
        overdue_columns!(),
        "
         FROM overdue
         WHERE (message_id, upstream) IN (SELECT * FROM UNNEST($1::uuid[], $2::text[]))
         ORDER BY message_id, upstream
         FOR UPDATE"
    ))
    .bind(ids)
    .bind(upstreams)
    .fetch_all(&mut *transaction)
    .await
}

pub(super) async fn recorded(
    transaction: &mut Transaction,
    ids: impl Iterator<Item = MessageId>,
) -> Result<BTreeMap<MessageId, Recorded>, sqlx::Error> {
    let Some(ids) = Ids::of(ids) else {
        return Ok(BTreeMap::new());
    };
    type Said = (Id, Text<Name>, String, String, Option<Time>);
    let said: Vec<Said> = sqlx::query_as(
        "-- recorded
         SELECT message_id, consumer, 'processed' AS outcome, '' AS reason, NULL AS until
         FROM confirmation
         WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)
         UNION ALL
         SELECT message_id, consumer, outcome, reason, until
         FROM consumer_report
         WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)",
    )
    .bind(ids.first)
    .bind(ids.last)
    .bind(ids.all)
    .fetch_all(&mut *transaction)
    .await?;
    let mut recorded: BTreeMap<MessageId, Recorded> = BTreeMap::new();
    for (Id(id), Text(consumer), outcome, reason, until) in said {
        let known = recorded.entry(id).or_default();
        let word = match (outcome.as_str(), until) {
            ("processed", _) => {
                known.confirmed.push(consumer);
                continue;
            }
            ("retrying", Some(Time(until))) => Word::Retrying { until },
            _ => Word::Rejected,
        };
        known.reports.push(Report { consumer, word, reason });
    }
    Ok(recorded)
}

/// A row under its lock, and the database's clock when it was read.
#[derive(FromRow)]
pub(super) struct Locked {
    #[sqlx(flatten)]
    pub(super) overdue: Overdue,
    /// Who had confirmed it when it was parked.
    confirmed: Vec<Text<Name>>,
    pub(super) now: Time,
}

impl Locked {
    /// The row, and what is recorded about its message: what was known when it was parked, too.
    pub(super) fn with(self, mut recorded: Recorded) -> (Overdue, Recorded) {
        for Text(consumer) in self.confirmed {
            if !recorded.confirmed.contains(&consumer) {
                recorded.confirmed.push(consumer);
            }
        }
        (self.overdue, recorded)
    }
}

impl FromRow<'_, PgRow> for Key {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let Id(message_id) = row.try_get("message_id")?;
        let Text(upstream) = row.try_get("upstream")?;
        Ok(Self { message_id, upstream })
    }
}

impl FromRow<'_, PgRow> for Overdue {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let consumers: Vec<Text<Name>> = row.try_get("consumers")?;
        let Text(state): Text<StateName> = row.try_get("state")?;
        let time = |column: &str| -> Result<Option<UnixMillis>, sqlx::Error> {
            Ok(row.try_get::<Option<Time>, _>(column)?.map(|Time(at)| at))
        };
        let count = |column: &str| -> Result<u32, sqlx::Error> {
            // A CHECK keeps each count from being negative.
            Ok(u32::try_from(row.try_get::<i32, _>(column)?).unwrap_or(0))
        };
        let Time(since) = row.try_get("since")?;
        let Time(missing_after) = row.try_get("missing_after")?;
        Ok(Self {
            key: Key::from_row(row)?,
            origin: read_origin(row.try_get("database")?),
            consumers: consumers.into_iter().map(|Text(name)| name).collect(),
            state: state.with(time("due_at")?, row.try_get("lease")?).ok_or_else(|| {
                sqlx::Error::Decode(format!("{state}: no due_at or lease").into())
            })?,
            reason: row.try_get("reason")?,
            resends: count("resends")?,
            calls_not_made: count("calls_not_made")?,
            granted: count("granted")?,
            granted_at: time("granted_at")?,
            granted_by_person: row.try_get("granted_by_person")?,
            since,
            missing_after,
            sent_at: time("sent_at")?,
        })
    }
}

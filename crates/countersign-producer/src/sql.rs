//! All SQL of this crate.

pub(crate) mod sweep;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use countersign_protocol::{DatabaseId, MessageId, Name, Tier, UnixMillis};
use sqlx::postgres::PgDatabaseError;
use sqlx::{PgExecutor, Row as _};
use uuid::Uuid;

use countersign_postgres::{Database, is_without_partition};

use crate::envelope::Envelope;
use crate::isolation::Isolation;
use crate::message::Message;
use crate::record::{Owner, Record};

/// The table's name in error messages of Postgres.
pub(crate) const ENLISTED: &str = "countersign.enlisted";

/// The transaction of `RequestResend` is READ COMMITTED: under REPEATABLE READ, a fence could miss
/// the transaction that it waited for.
pub(crate) const READ_ONLY: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY";

pub(crate) fn set_isolation(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Default => "",
        Isolation::ReadCommitted => "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;",
        Isolation::RepeatableRead => "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;",
        Isolation::Serializable => "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;",
    }
}

/// The identity of the database that the connection leads to.
pub(crate) async fn identity(database: &Database) -> Result<DatabaseId, sqlx::Error> {
    let id: Uuid = sqlx::query_scalar(
        "-- identity
         SELECT database_id FROM countersign.identity",
    )
    .fetch_one(database)
    .await?;
    Ok(DatabaseId::from_uuid(id))
}

/// The upstream's name, as an expression that is NULL in any other database than the owner's: an insert
/// of it fails there ([`is_wrong_database`]), without a round trip to find out before.
fn upstream_here(owner: &Owner) -> String {
    let Owner { upstream, database } = owner;
    format!("(SELECT '{upstream}' FROM countersign.identity WHERE database_id = '{database}')")
}

/// The times, in milliseconds since 1970, that the database's clock may say while these messages are enlisted: within an
/// hour of the ids' times, which this machine's clock has made. By clocks further apart, the callback service and the
/// consumers would hold the messages, or take them for too old. An id is made at most minutes before it is enlisted.
fn present(messages: &[&Message]) -> RangeInclusive<i64> {
    const MOST_APART_MS: i64 = 60 * 60 * 1_000;
    let times = || messages.iter().map(|message| message.id.time().ms());
    let (oldest, newest) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    newest.saturating_sub(MOST_APART_MS)..=oldest.saturating_add(MOST_APART_MS)
}

/// Whether a statement failed because it ran in another database than the owner's.
pub(crate) fn is_wrong_database(error: &sqlx::Error) -> bool {
    is_null(error, "upstream")
}

/// Whether a statement failed because of the clocks: they are apart, or the ids are of days that have no partition.
pub(crate) fn are_clocks_apart(error: &sqlx::Error) -> bool {
    is_null(error, "state") || is_without_partition(error, ENLISTED)
}

fn is_null(error: &sqlx::Error, column: &str) -> bool {
    // `not_null_violation`
    const NOT_NULL: &str = "23502";
    let error = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|e| e.code() == NOT_NULL && e.column() == Some(column))
}

/// Enlists ids. The statement is text without parameters, so that it travels with the `BEGIN`; an
/// id is hexadecimal digits and hyphens, and no name holds a quote. The ids are sorted, because two
/// transactions that insert the same keys in opposite orders deadlock.
pub(crate) fn enlist_ids(
    isolation: Isolation,
    owner: &Owner,
    tier: Tier,
    messages: &[Message],
) -> String {
    let mut messages: Vec<&Message> = messages.iter().collect();
    messages.sort_by_key(|message| message.id);
    let row =
        |message: &&Message| format!("('{}'::uuid, '{}')", message.id, joined(&message.consumers));
    let rows: Vec<String> = messages.iter().map(row).collect();
    // NULL while the clocks are apart, as the upstream's name is in another database.
    let present = present(&messages);
    format!(
        "{} INSERT INTO countersign.enlisted (message_id, upstream, state, consumers, check_delay_ms)
         SELECT message_id, {},
                CASE WHEN extract(epoch FROM clock_timestamp()) * 1000 BETWEEN {} AND {}
                     THEN 'enlisted' END,
                consumers, {}
         FROM (VALUES {}) AS message (message_id, consumers)",
        set_isolation(isolation),
        upstream_here(owner),
        present.start(),
        present.end(),
        delay_ms(tier),
        rows.join(", ")
    )
}

pub(crate) async fn enlist_messages(
    connection: impl PgExecutor<'_>,
    owner: &Owner,
    tier: Tier,
    messages: &[Message],
) -> Result<(), sqlx::Error> {
    let mut messages: Vec<&Message> = messages.iter().collect();
    messages.sort_by_key(|message| message.id);
    let ids: Vec<_> = messages.iter().map(|message| message.id.uuid()).collect();
    let envelopes: Vec<_> =
        messages.iter().map(|message| sqlx::types::Json(Envelope::of(message))).collect();
    let bodies: Vec<&[u8]> = messages.iter().map(|message| message.body.as_ref()).collect();
    let consumers: Vec<String> =
        messages.iter().map(|message| joined(&message.consumers)).collect();
    let present = present(&messages);
    sqlx::query(
        "-- enlist_messages
         INSERT INTO countersign.enlisted
             (upstream, state, check_delay_ms, message_id, envelope, body, consumers)
         SELECT (SELECT $5 FROM countersign.identity WHERE database_id = $6),
                CASE WHEN extract(epoch FROM clock_timestamp()) * 1000 BETWEEN $7 AND $8
                     THEN 'enlisted' END,
                $9, message.*
         FROM UNNEST($1::uuid[], $2::jsonb[], $3::bytea[], $4::text[]) AS message",
    )
    .bind(ids)
    .bind(envelopes)
    .bind(bodies)
    .bind(consumers)
    .bind(owner.upstream.as_str())
    .bind(owner.database.uuid())
    .bind(present.start())
    .bind(present.end())
    .bind(delay_ms(tier))
    .execute(connection)
    .await?;
    Ok(())
}

/// The committed record of an id.
pub(crate) async fn look_up(
    connection: impl PgExecutor<'_>,
    id: MessageId,
) -> Result<Record, sqlx::Error> {
    let state: Option<String> = sqlx::query_scalar(
        "-- look_up
         SELECT state FROM countersign.enlisted WHERE message_id = $1",
    )
    .bind(id.uuid())
    .fetch_optional(connection)
    .await?;
    record(state.as_deref())
}

/// The committed record of an id, as it is now in the database that the connection leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) record: Record,
    /// The database's time.
    pub(crate) now: UnixMillis,
    pub(crate) database: DatabaseId,
}

/// The committed record of an id, as far as it is this upstream's.
pub(crate) async fn look_up_now(
    connection: impl PgExecutor<'_>,
    upstream: &Name,
    id: MessageId,
) -> Result<Look, sqlx::Error> {
    let (state, owner, now_ms, database): (Option<String>, Option<String>, i64, Uuid) =
        sqlx::query_as(
            "-- look_up_now
             SELECT enlisted.state, enlisted.upstream,
                    (extract(epoch FROM clock_timestamp()) * 1000)::bigint, identity.database_id
             FROM countersign.identity
             LEFT JOIN countersign.enlisted ON enlisted.message_id = $1",
        )
        .bind(id.uuid())
        .fetch_one(connection)
        .await?;
    let record = match owner {
        Some(owner) if owner != upstream.as_str() => Record::OfAnother,
        _ => record(state.as_deref())?,
    };
    let (now, database) = (UnixMillis::from_ms(now_ms), DatabaseId::from_uuid(database));
    Ok(Look { record, now, database })
}

/// Which of these ids are in the table, enlisted or fenced. Both bounds are given, so that Postgres
/// reads only their partitions.
pub(crate) async fn taken(
    database: &Database,
    ids: impl Iterator<Item = MessageId>,
) -> Result<BTreeSet<MessageId>, sqlx::Error> {
    let ids: BTreeSet<Uuid> = ids.map(MessageId::uuid).collect();
    let taken: Vec<Uuid> = sqlx::query_scalar(
        "-- taken
         SELECT message_id FROM countersign.enlisted
         WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)",
    )
    .bind(ids.first().copied())
    .bind(ids.last().copied())
    .bind(ids.into_iter().collect::<Vec<Uuid>>())
    .fetch_all(database)
    .await?;
    taken.into_iter().map(message_id).collect()
}

/// Takes the key of an id unless it is taken. The statement waits half a second for an open
/// transaction that holds the key: most end by then, and the caller does not wait long for the
/// others.
pub(crate) fn fence(owner: &Owner, id: MessageId) -> String {
    let upstream = upstream_here(owner);
    format!(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
         SET LOCAL lock_timeout = '500ms';
         INSERT INTO countersign.enlisted (message_id, upstream, state)
         VALUES ('{id}', {upstream}, 'fenced')
         ON CONFLICT (message_id) DO NOTHING"
    )
}

/// A message stored by [`enlist_messages`].
pub(crate) async fn stored_message(
    connection: impl PgExecutor<'_>,
    id: MessageId,
) -> Result<Option<(Envelope, Vec<u8>)>, sqlx::Error> {
    let stored = sqlx::query(
        "-- stored_message
         SELECT envelope, body FROM countersign.enlisted
         WHERE message_id = $1 AND envelope IS NOT NULL",
    )
    .bind(id.uuid())
    .fetch_optional(connection)
    .await?;
    let Some(stored) = stored else { return Ok(None) };
    let sqlx::types::Json(envelope) = stored.try_get(0)?;
    Ok(Some((envelope, stored.try_get(1)?)))
}

fn message_id(id: Uuid) -> Result<MessageId, sqlx::Error> {
    MessageId::try_from(id).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A check delay as a column holds it.
fn delay_ms(tier: Tier) -> i32 {
    i32::try_from(tier.delay().as_millis()).unwrap_or(i32::MAX)
}

fn joined(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(",")
}

fn record(state: Option<&str>) -> Result<Record, sqlx::Error> {
    match state {
        None => Ok(Record::Absent),
        Some("enlisted") => Ok(Record::Enlisted),
        Some("fenced") => Ok(Record::Fenced),
        Some(other) => Err(sqlx::Error::Decode(format!("state {other:?} is not known").into())),
    }
}

//! All SQL of this crate.

use countersign_protocol::{MessageId, UnixMillis};
use sqlx::{PgConnection, Row as _};

use crate::enlist::Isolation;
use crate::judge::Row;
use crate::message::Message;
use crate::stored::Envelope;

/// The table, as error messages of Postgres name it.
pub(crate) const ENLISTED: &str = "countersign.enlisted";

/// For `RequestResend`: under REPEATABLE READ, a fence could miss the transaction that it waited for.
pub(crate) const READ_ONLY: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY";

pub(crate) fn set_isolation(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        Isolation::RepeatableRead => "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        Isolation::Serializable => "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    }
}

/// Text, not parameters, so that it travels with the `BEGIN`; an id is hexadecimal digits and
/// hyphens. Sorted, since two transactions that insert the same keys in opposite orders deadlock.
pub(crate) fn enlist_ids(isolation: Isolation, ids: impl Iterator<Item = MessageId>) -> String {
    let mut ids: Vec<MessageId> = ids.collect();
    ids.sort();
    let rows: Vec<String> = ids.iter().map(|id| format!("('{id}')")).collect();
    format!(
        "{}; INSERT INTO countersign.enlisted (message_id) VALUES {}",
        set_isolation(isolation),
        rows.join(", ")
    )
}

pub(crate) async fn enlist_messages(
    connection: &mut PgConnection,
    messages: &[Message],
) -> Result<(), sqlx::Error> {
    let mut messages: Vec<&Message> = messages.iter().collect();
    messages.sort_by_key(|message| message.id);
    let ids: Vec<_> = messages.iter().map(|message| message.id.uuid()).collect();
    let envelopes: Vec<_> =
        messages.iter().map(|message| sqlx::types::Json(Envelope::of(message))).collect();
    let bodies: Vec<&[u8]> = messages.iter().map(|message| message.body.as_ref()).collect();
    sqlx::query(
        "-- enlist_messages
         INSERT INTO countersign.enlisted (message_id, envelope, body)
         SELECT * FROM UNNEST($1::uuid[], $2::jsonb[], $3::bytea[])",
    )
    .bind(ids)
    .bind(envelopes)
    .bind(bodies)
    .execute(connection)
    .await?;
    Ok(())
}

/// What is committed of an id.
pub(crate) async fn look_up(
    connection: &mut PgConnection,
    id: MessageId,
) -> Result<Row, sqlx::Error> {
    let state: Option<String> = sqlx::query_scalar(
        "-- look_up
         SELECT state FROM countersign.enlisted WHERE message_id = $1",
    )
    .bind(id.uuid())
    .fetch_optional(connection)
    .await?;
    row(state.as_deref())
}

/// What is committed of an id, and the database's time.
pub(crate) async fn look_up_now(
    connection: &mut PgConnection,
    id: MessageId,
) -> Result<(Row, UnixMillis), sqlx::Error> {
    let found = sqlx::query(
        "-- look_up_now
         SELECT (SELECT state FROM countersign.enlisted WHERE message_id = $1),
                (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    )
    .bind(id.uuid())
    .fetch_one(connection)
    .await?;
    let state: Option<String> = found.try_get(0)?;
    Ok((row(state.as_deref())?, UnixMillis::from_ms(found.try_get(1)?)))
}

/// Takes the key of an id unless it is taken; waits half a second for a transaction that has it and
/// is still open.
pub(crate) fn fence(id: MessageId) -> String {
    format!(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
         SET LOCAL lock_timeout = '500ms';
         INSERT INTO countersign.enlisted (message_id, state) VALUES ('{id}', 'fenced')
         ON CONFLICT (message_id) DO NOTHING"
    )
}

/// A message stored by [`enlist_messages`].
pub(crate) async fn stored_message(
    connection: &mut PgConnection,
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

fn row(state: Option<&str>) -> Result<Row, sqlx::Error> {
    match state {
        None => Ok(Row::Absent),
        Some("enlisted") => Ok(Row::Enlisted),
        Some("fenced") => Ok(Row::Fenced),
        Some(other) => Err(sqlx::Error::Decode(format!("state {other:?} is not known").into())),
    }
}

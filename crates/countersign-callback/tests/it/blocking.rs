//! Locks that a test holds, so that a statement of the service waits where the test wants it to.

use countersign_protocol::MessageId;
use countersign_testbed::{SOON, counts};
use sqlx::{PgExecutor, Postgres, Transaction};

use crate::stage::Stage;

/// Confirms wait for this lock, so that a replica holds them.
pub(crate) async fn hold_confirms(stage: &Stage) -> Transaction<'static, Postgres> {
    let mut blocking = stage.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE confirmation IN SHARE MODE").execute(&mut *blocking).await.unwrap();
    blocking
}

/// A transaction that has this consumer's confirm of a message in hand and goes no further: whoever
/// records that confirm waits for it.
pub(crate) async fn hold_confirm(
    stage: &Stage,
    consumer: &str,
    id: MessageId,
) -> Transaction<'static, Postgres> {
    let mut blocking = stage.pool.begin().await.unwrap();
    record(&mut *blocking, consumer, id).await;
    blocking
}

/// Records a confirm as if the transaction that does so had not seen the message's row.
pub(crate) async fn record_unseen(stage: &Stage, consumer: &str, id: MessageId) {
    record(&stage.pool, consumer, id).await;
}

async fn record(connection: impl PgExecutor<'_>, consumer: &str, id: MessageId) {
    sqlx::query("INSERT INTO confirmation (message_id, consumer) VALUES ($1, $2)")
        .bind(id.uuid())
        .bind(consumer)
        .execute(connection)
        .await
        .unwrap();
}

/// Returns when one of the service's statements of this name waits for a lock.
pub(crate) async fn is_blocked(stage: &Stage, statement: &str) {
    const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event_type = 'Lock'
                             AND split_part(query, E'\n', 1) = '-- ' || $1";
    counts(&format!("statements {statement} that wait"), SOON, 1_i64, async || {
        sqlx::query_scalar(BLOCKED).bind(statement).fetch_one(&stage.pool).await.unwrap()
    })
    .await;
}

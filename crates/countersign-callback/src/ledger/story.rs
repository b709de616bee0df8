//! The story of one message, for an operator who asks about it.

use countersign_protocol::MessageId;
use serde::de::DeserializeOwned;
use sqlx::types::Json;

use super::Ledger;

impl Ledger {
    /// Everything recorded about one message, as of one moment. What Postgres builds has the shape of
    /// the API's answer, and the caller names the type that it is read into; a field that is NULL
    /// here is left out.
    ///
    /// Without an overdue row, the story has no `state`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn story<T>(&self, id: MessageId) -> Result<T, sqlx::Error>
    where
        T: DeserializeOwned + Send + Unpin + 'static,
    {
        // Two upstreams may use one id: the row that is open is told, else the newest.
        // `floor` instead of a cast, which would round a time up into the next millisecond.
        let Json(story) = sqlx::query_scalar::<_, Json<T>>(
            "-- story
             SELECT json_strip_nulls(json_build_object(
                 'message_id', asked.message_id,
                 'state', told.state, 'cause', told.cause, 'reason', told.reason,
                 'upstream', told.upstream, 'database', nullif(told.database, '00000000-0000-0000-0000-000000000000'), 'consumers', told.consumers, 'resends', told.resends,
                 'next_at_ms', floor(extract(epoch FROM told.due_at) * 1000)::bigint,
                 'history', (
                     SELECT json_agg(json_build_object(
                         'at_ms', floor(extract(epoch FROM at) * 1000)::bigint,
                         'from_state', from_state, 'to_state', to_state,
                         'cause', cause, 'reason', reason, 'resends', resends
                     ) ORDER BY event_id)
                     FROM overdue_event
                     WHERE message_id = asked.message_id AND upstream = told.upstream),
                 'confirms', (
                     SELECT json_agg(json_build_object(
                         'consumer', consumer, 'attempt', attempt,
                         'recorded_at_ms', floor(extract(epoch FROM recorded_at) * 1000)::bigint
                     ) ORDER BY recorded_at, consumer)
                     FROM confirmation WHERE message_id = asked.message_id),
                 'reports', (
                     SELECT json_agg(json_build_object(
                         'consumer', consumer, 'outcome', outcome, 'reason', reason,
                         'until_ms', floor(extract(epoch FROM until) * 1000)::bigint,
                         'recorded_at_ms', floor(extract(epoch FROM recorded_at) * 1000)::bigint
                     ) ORDER BY recorded_at, consumer)
                     FROM consumer_report
                     WHERE message_id = asked.message_id AND NOT EXISTS (
                         SELECT FROM confirmation
                         WHERE confirmation.message_id = asked.message_id
                           AND confirmation.consumer = consumer_report.consumer)),
                 'actions', (
                     SELECT json_agg(json_build_object(
                         'at_ms', floor(extract(epoch FROM created_at) * 1000)::bigint,
                         'action', action, 'who', who, 'why', why, 'job_id', job_id,
                         'result', concat_ws(': ', job_item.state, nullif(result, ''))
                     ) ORDER BY created_at, job_id)
                     FROM job_item JOIN job USING (job_id)
                     WHERE message_id = asked.message_id
                       AND (told.upstream IS NULL OR upstream IN ('', told.upstream)))
             ))
             FROM (SELECT $1::uuid AS message_id) AS asked
             LEFT JOIN LATERAL (
                 SELECT upstream, database, state, cause, reason, consumers, resends, due_at
                 FROM overdue WHERE message_id = asked.message_id
                 ORDER BY closed_at IS NULL DESC, since DESC
                 LIMIT 1
             ) AS told ON TRUE",
        )
        .bind(id.uuid())
        .fetch_one(self.pool())
        .await?;
        Ok(story)
    }
}

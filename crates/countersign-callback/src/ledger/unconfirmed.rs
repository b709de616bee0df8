//! What nobody has confirmed and nobody would ask for.

use countersign_protocol::{MessageId, Name};
use uuid::Uuid;

use super::{Due, Ids, Ledger, read_id};

impl Ledger {
    /// Of these messages, those that somebody has not confirmed and that are in no overdue row of
    /// this upstream, open or closed: an open one is asked for anyway, and a closed or parked one
    /// is somebody's decision.
    ///
    /// One statement, so that a check that is noted meanwhile is seen whole or not at all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn forgotten(
        &self,
        upstream: &Name,
        messages: &[Due],
    ) -> Result<Vec<MessageId>, sqlx::Error> {
        let Some(ids) = Ids::of(messages.iter().map(|due| due.key.message_id)) else {
            return Ok(Vec::new());
        };
        let (mut expected, mut names) = (Vec::new(), Vec::new());
        for Due { key, consumers } in messages {
            for consumer in consumers {
                expected.push(key.message_id.uuid());
                names.push(consumer.as_str());
            }
        }
        let forgotten: Vec<Uuid> = sqlx::query_scalar(
            "-- forgotten
             SELECT message_id FROM (
                 SELECT message_id, consumer
                 FROM UNNEST($4::uuid[], $5::text[]) AS expected (message_id, consumer)
                 EXCEPT
                 SELECT message_id, consumer FROM confirmation
                 WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)
             ) AS missing
             EXCEPT
             SELECT message_id FROM overdue
             WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3) AND upstream = $6
             ORDER BY message_id",
        )
        .bind(ids.first)
        .bind(ids.last)
        .bind(ids.all)
        .bind(expected)
        .bind(names)
        .bind(upstream.as_str())
        .fetch_all(self.pool())
        .await?;
        forgotten.into_iter().map(read_id).collect()
    }
}

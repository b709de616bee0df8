//! How far consumers are.

use std::time::Duration;

use countersign_protocol::{Name, UnixMillis};
use sqlx::FromRow;

use super::Ledger;
use super::columns::{Text, Time, stored_total};
use crate::rules::backlog::{Progress, Whereabouts};
use crate::rules::cause::Cause;
use crate::rules::states::StateName;

/// How far a consumer is now, from its confirms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Whose confirms.
    pub(crate) consumer: Name,
    /// Through which queue.
    pub(crate) queue: String,
    /// Whose messages.
    pub(crate) upstream: Name,
    /// The newest publish among them, on the upstream's clock, if they say.
    pub(crate) up_to: Option<UnixMillis>,
    /// How many messages the consumer has confirmed as processed for the first time.
    pub(crate) confirms: u64,
}

/// A consumer of a queue, for a person and for the alarm. Times are in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct Watched {
    pub(crate) consumer: String,
    /// Empty if it has not been heard of.
    pub(crate) queue: String,
    pub(crate) upstream: String,
    pub(crate) confirmed_up_to_ms: Option<i64>,
    /// Of any upstream's messages in this queue.
    pub(crate) progressed_at_ms: Option<i64>,
    pub(crate) ready: Option<i64>,
    pub(crate) held: Option<i64>,
    /// Whether the log has said that it makes no progress.
    pub(crate) stalled: bool,
    /// Overdue messages that wait for it.
    pub(crate) deferred: i64,
    /// Since when the longest overdue of them is.
    pub(crate) waiting_since_ms: Option<i64>,
    pub(crate) now_ms: i64,
}

/// The causes of rows that wait for a consumer.
const WAITS_FOR_CONSUMER: [Cause; 3] =
    [Cause::ConsumerBehind, Cause::ConsumerNeverSeen, Cause::BacklogUnknown];

impl Ledger {
    /// Notes how far consumers are, sorted by key. No consumer goes back. A publish that is later than
    /// this database's clock by more than `ahead` is not believed.
    ///
    /// To be called after what they said is committed.
    ///
    /// # Errors
    /// When nothing was noted.
    pub(crate) async fn progressed(
        &self,
        reached: &[Reached],
        ahead: Duration,
    ) -> Result<(), sqlx::Error> {
        if reached.is_empty() {
            return Ok(());
        }
        let consumers: Vec<&str> = reached.iter().map(|r| r.consumer.as_str()).collect();
        let queues: Vec<&str> = reached.iter().map(|r| r.queue.as_str()).collect();
        let upstreams: Vec<&str> = reached.iter().map(|r| r.upstream.as_str()).collect();
        let up_to: Vec<Option<Time>> = reached.iter().map(|r| r.up_to.map(Time)).collect();
        let confirms: Vec<i64> = reached.iter().map(|r| stored_total(r.confirms)).collect();
        sqlx::query(
            "-- progressed
             INSERT INTO consumer_progress AS known
                 (consumer, queue, upstream, confirmed_up_to, confirms)
             SELECT consumer, queue, upstream,
                    CASE WHEN up_to <= clock_timestamp() + make_interval(secs => $6) THEN up_to END,
                    confirms
             FROM UNNEST($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[])
                 AS entry (consumer, queue, upstream, up_to, confirms)
             ON CONFLICT (consumer, upstream, queue) DO UPDATE
             SET confirmed_up_to = greatest(known.confirmed_up_to, excluded.confirmed_up_to),
                 confirms = known.confirms + excluded.confirms,
                 progressed_at = CASE
                     WHEN known.confirmed_up_to IS NULL
                       OR known.confirmed_up_to < excluded.confirmed_up_to
                     THEN clock_timestamp()
                     ELSE known.progressed_at
                 END
             WHERE known.confirmed_up_to IS NULL
                OR known.confirmed_up_to < excluded.confirmed_up_to
                OR excluded.confirms > 0",
        )
        .bind(consumers)
        .bind(queues)
        .bind(upstreams)
        .bind(up_to)
        .bind(confirms)
        .bind(ahead.as_secs_f64())
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Forgets consumers and queues of which nothing has been heard for longer than the retention.
    ///
    /// # Errors
    /// When nothing was forgotten.
    pub(crate) async fn prune_progress(&self, now: UnixMillis) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- prune_progress
             WITH silent AS (
                 DELETE FROM consumer_progress WHERE progressed_at < $1
             )
             DELETE FROM queue_depth WHERE claimed_at < $1",
        )
        .bind(Time(now.before(self.retention)))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Where all consumers are. To be read before what is recorded.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn whereabouts(&self) -> Result<Whereabouts, sqlx::Error> {
        let watermark = self.watermark().await?;
        type Reached = (Text<Name>, String, Text<Name>, Option<Time>);
        let progress: Vec<Reached> = sqlx::query_as(
            "-- progress
             SELECT consumer, queue, upstream, confirmed_up_to FROM consumer_progress",
        )
        .fetch_all(self.pool())
        .await?;
        let depths = self.depths().await?;
        let progress =
            progress.into_iter().map(|(Text(consumer), queue, Text(upstream), up_to)| Progress {
                consumer,
                queue,
                upstream,
                confirmed_up_to: up_to.map(|Time(at)| at),
            });
        Ok(Whereabouts { watermark, progress: progress.collect(), depths })
    }

    /// Every consumer that has been heard of or is waited for.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn consumers(&self) -> Result<Vec<Watched>, sqlx::Error> {
        sqlx::query_as(
            "-- consumers
             WITH waiting AS (
                 SELECT consumer, upstream, count(*) AS deferred, min(since) AS waiting_since
                 FROM overdue CROSS JOIN LATERAL UNNEST(consumers) AS named (consumer)
                 WHERE state = $2 AND cause = ANY($1)
                   AND (cardinality(consumers) = 1 OR NOT EXISTS (
                       SELECT FROM confirmation
                       WHERE confirmation.message_id = overdue.message_id
                         AND confirmation.consumer = named.consumer
                   ))
                 GROUP BY consumer, upstream
             ), of_queue AS (
                 SELECT consumer, queue, max(progressed_at) AS progressed_at
                 FROM consumer_progress GROUP BY consumer, queue
             )
             SELECT coalesce(progress.consumer, waiting.consumer) AS consumer,
                    coalesce(progress.queue, '') AS queue,
                    coalesce(progress.upstream, waiting.upstream) AS upstream,
                    floor(extract(epoch FROM confirmed_up_to) * 1000)::bigint
                        AS confirmed_up_to_ms,
                    floor(extract(epoch FROM of_queue.progressed_at) * 1000)::bigint
                        AS progressed_at_ms,
                    ready, held, stalled_at IS NOT NULL AS stalled,
                    coalesce(deferred, 0) AS deferred,
                    floor(extract(epoch FROM waiting_since) * 1000)::bigint AS waiting_since_ms,
                    floor(extract(epoch FROM now()) * 1000)::bigint AS now_ms
             FROM consumer_progress AS progress
             FULL JOIN waiting
                 ON waiting.consumer = progress.consumer AND waiting.upstream = progress.upstream
             LEFT JOIN of_queue
                 ON of_queue.consumer = progress.consumer AND of_queue.queue = progress.queue
             LEFT JOIN queue_depth ON queue_depth.queue = progress.queue
             ORDER BY 1, 2, 3",
        )
        .bind(WAITS_FOR_CONSUMER.map(<&str>::from).as_slice())
        .bind::<&str>(StateName::Waiting.into())
        .fetch_all(self.pool())
        .await
    }

    /// Notes that the log says so now: a consumer makes no progress with a queue, or does again.
    /// Whether it was this call that changed it; of several replicas one hears that it was.
    ///
    /// # Errors
    /// When nothing was noted.
    pub(crate) async fn note_stalled(
        &self,
        consumer: &str,
        queue: &str,
        stalled: bool,
    ) -> Result<bool, sqlx::Error> {
        let changed = sqlx::query(
            "-- note_stalled
             UPDATE consumer_progress SET stalled_at = CASE WHEN $3 THEN now() END
             WHERE consumer = $1 AND queue = $2 AND (stalled_at IS NOT NULL) <> $3",
        )
        .bind(consumer)
        .bind(queue)
        .bind(stalled)
        .execute(self.pool())
        .await?;
        Ok(changed.rows_affected() > 0)
    }
}

//! How far consumers are, and what lies in their queues.

use std::time::Duration;

use countersign_protocol::{Name, UnixMillis};
use sqlx::FromRow;

use super::Ledger;
use super::columns::{Text, Time};
use crate::rules::backlog::{Depth, Progress, Whereabouts};
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
}

/// What a queue was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Which queue.
    pub(crate) queue: String,
    /// When the reading was begun, in microseconds since 1970 on the database's clock.
    pub(crate) claimed_at_us: i64,
    /// What no consumer holds.
    pub(crate) ready: u64,
    /// That and what consumers hold, if anybody knows.
    pub(crate) held: Option<u64>,
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
    /// Notes how far consumers are, sorted by key. No consumer goes back.
    ///
    /// To be called after what they said is committed.
    ///
    /// # Errors
    /// When nothing was noted.
    pub(crate) async fn progressed(&self, reached: &[Reached]) -> Result<(), sqlx::Error> {
        if reached.is_empty() {
            return Ok(());
        }
        let consumers: Vec<&str> = reached.iter().map(|r| r.consumer.as_str()).collect();
        let queues: Vec<&str> = reached.iter().map(|r| r.queue.as_str()).collect();
        let upstreams: Vec<&str> = reached.iter().map(|r| r.upstream.as_str()).collect();
        let up_to: Vec<Option<Time>> = reached.iter().map(|r| r.up_to.map(Time)).collect();
        sqlx::query(
            "-- progressed
             INSERT INTO consumer_progress (consumer, queue, upstream, confirmed_up_to)
             SELECT consumer, queue, upstream, up_to
             FROM UNNEST($1::text[], $2::text[], $3::text[], $4::timestamptz[])
                 AS entry (consumer, queue, upstream, up_to)
             ON CONFLICT (consumer, upstream, queue) DO UPDATE
             SET confirmed_up_to = excluded.confirmed_up_to, progressed_at = clock_timestamp()
             WHERE consumer_progress.confirmed_up_to IS NULL
                OR consumer_progress.confirmed_up_to < excluded.confirmed_up_to",
        )
        .bind(consumers)
        .bind(queues)
        .bind(upstreams)
        .bind(up_to)
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
    pub(crate) async fn whereabouts(&self, shards: &[u16]) -> Result<Whereabouts, sqlx::Error> {
        let watermark = self.watermark(shards).await?;
        type Reached = (Text<Name>, String, Text<Name>, Option<Time>);
        let progress: Vec<Reached> = sqlx::query_as(
            "-- progress
             SELECT consumer, queue, upstream, confirmed_up_to FROM consumer_progress",
        )
        .fetch_all(self.pool())
        .await?;
        type Found = (String, Time, Option<Time>, i64, Option<i64>);
        let depths: Vec<Found> = sqlx::query_as(
            "-- depths
             SELECT queue, read_at, empty_at, ready, held
             FROM queue_depth WHERE read_at IS NOT NULL",
        )
        .fetch_all(self.pool())
        .await?;
        let progress =
            progress.into_iter().map(|(Text(consumer), queue, Text(upstream), up_to)| Progress {
                consumer,
                queue,
                upstream,
                confirmed_up_to: up_to.map(|Time(at)| at),
            });
        // A CHECK keeps each count from being negative.
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        let depths = depths.into_iter().map(|(queue, Time(read_at), empty_at, ready, held)| {
            let empty_at = empty_at.map(|Time(at)| at);
            (queue, Depth { read_at, empty_at, ready: number(ready), held: held.map(number) })
        });
        Ok(Whereabouts { watermark, progress: progress.collect(), depths: depths.collect() })
    }

    /// Of these queues, those that no replica has begun to read within `fresh`: to be read now, with the
    /// moment, in microseconds since 1970. Of several replicas that ask at once, one gets the queue.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn claim_depths(
        &self,
        queues: &[String],
        fresh: Duration,
    ) -> Result<Vec<(String, i64)>, sqlx::Error> {
        sqlx::query_as(
            "-- claim_depths
             INSERT INTO queue_depth (queue, claimed_at)
             SELECT queue, clock_timestamp() FROM UNNEST($1::text[]) AS wanted (queue)
             ORDER BY queue
             ON CONFLICT (queue) DO UPDATE SET claimed_at = excluded.claimed_at
             WHERE queue_depth.claimed_at < excluded.claimed_at - make_interval(secs => $2)
             RETURNING queue, (extract(epoch FROM claimed_at) * 1000000)::bigint",
        )
        .bind(queues)
        .bind(fresh.as_secs_f64())
        .fetch_all(self.pool())
        .await
    }

    /// Notes what a queue was found to hold, unless another replica has found something newer; everything
    /// that was with the broker before `watermark` is recorded.
    ///
    /// # Errors
    /// When nothing was noted.
    pub(crate) async fn note_depth(
        &self,
        reading: &Reading,
        watermark: Option<UnixMillis>,
    ) -> Result<(), sqlx::Error> {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        sqlx::query(
            "-- note_depth
             UPDATE queue_depth
             SET read_at = 'epoch'::timestamptz + $2::bigint * interval '1 us',
                 ready = $3, held = $4,
                 empty_at = CASE
                     WHEN ready = 0 AND held = 0 AND read_at < $5
                     THEN read_at
                     ELSE empty_at
                 END
             WHERE queue = $1
               AND (read_at IS NULL
                    OR read_at < 'epoch'::timestamptz + $2::bigint * interval '1 us')",
        )
        .bind(&reading.queue)
        .bind(reading.claimed_at_us)
        .bind(number(reading.ready))
        .bind(reading.held.map(number))
        .bind(watermark.map(Time))
        .execute(self.pool())
        .await?;
        Ok(())
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

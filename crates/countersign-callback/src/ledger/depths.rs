//! What lies in the queues that overdue messages may wait in.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_protocol::UnixMillis;
use sqlx::FromRow;

use super::Ledger;
use super::columns::{Time, stored_total};
use crate::rules::backlog::{self, Depth};
use crate::rules::passing::{Counted, Passing};

/// What a queue was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Which queue.
    pub(crate) queue: String,
    /// When the reading was begun, in microseconds since 1970 on the database's clock.
    pub(crate) claimed_at_us: i64,
    /// What no consumer holds.
    pub(crate) ready: u64,
    /// How many consumers it has.
    pub(crate) consumers: u64,
    /// What is ready and what consumers hold, if anybody knows.
    pub(crate) held: Option<u64>,
}

/// Replicas that leave a queue alone for longer begin to look into it anew. A row that waits for its
/// consumer is judged, and wants the queue, twice a minute at least.
const LOOK_WITHOUT_PAUSE: Duration = Duration::from_secs(120);

impl Reading {
    /// Whether the broker may not have asked the queue: it says the same of a queue whose leader is away.
    /// The management API counts on its own.
    fn may_be_no_answer(&self) -> bool {
        self.ready == 0 && self.consumers == 0 && self.held.is_none()
    }
}

impl Ledger {
    /// What is known of all queues.
    pub(super) async fn depths(&self) -> Result<BTreeMap<String, Depth>, sqlx::Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "-- depths
             SELECT queue, claimed_at, claimed_since, read_at, ready, held, empty_at, nobody_since,
                    left_since, passing_from, passing_need, passing_base, passed_to
             FROM queue_depth",
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(Row::read).collect())
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
             INSERT INTO queue_depth AS known (queue, claimed_at, claimed_since)
             SELECT queue, clock_timestamp(), clock_timestamp()
             FROM UNNEST($1::text[]) AS wanted (queue)
             ORDER BY queue
             ON CONFLICT (queue) DO UPDATE
             SET claimed_at = excluded.claimed_at,
                 claimed_since = CASE
                     WHEN known.claimed_at < excluded.claimed_at - make_interval(secs => $3)
                     THEN excluded.claimed_since
                     ELSE known.claimed_since
                 END
             WHERE known.claimed_at < excluded.claimed_at - make_interval(secs => $2)
                 -- Left by a clock that was set back.
                 OR known.claimed_at > excluded.claimed_at + make_interval(secs => 1)
             RETURNING queue, (extract(epoch FROM claimed_at) * 1000000)::bigint",
        )
        .bind(queues)
        .bind(fresh.as_secs_f64())
        .bind(LOOK_WITHOUT_PAUSE.as_secs_f64())
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
        if reading.may_be_no_answer() {
            return self.note_nobody(reading).await;
        }
        let (passing, passed_to) = self.passing(reading, watermark).await?;
        sqlx::query(
            "-- note_depth
             UPDATE queue_depth
             SET read_at = $2, ready = $3, held = $4,
                 empty_at = CASE
                     WHEN ready = 0 AND held = 0 AND read_at < $5
                     THEN read_at
                     ELSE empty_at
                 END,
                 nobody_since = NULL,
                 left_since = CASE
                     WHEN $6 THEN CASE WHEN ready = $3 THEN coalesce(left_since, $2) ELSE $2 END
                 END,
                 passing_from = $7, passing_need = $8, passing_base = $9,
                 passed_to = greatest(passed_to, $10)
             -- A reading of the future was left by a clock that was set back.
             WHERE queue = $1
               AND (read_at IS NULL OR read_at < $2 OR read_at > clock_timestamp())",
        )
        .bind(&reading.queue)
        .bind(Time(moment(reading)))
        .bind(stored_total(reading.ready))
        .bind(reading.held.map(stored_total))
        .bind(watermark.map(Time))
        .bind(reading.consumers == 0)
        .bind(Time(passing.read_at))
        .bind(stored_total(passing.need))
        .bind(passing.base.map(stored_total))
        .bind(passed_to.map(Time))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The queue is told as one without messages and without consumers: what was read before stays.
    async fn note_nobody(&self, reading: &Reading) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- note_nobody
             UPDATE queue_depth SET nobody_since = coalesce(nobody_since, $2) WHERE queue = $1",
        )
        .bind(&reading.queue)
        .bind(Time(moment(reading)))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The count of confirms after this reading.
    async fn passing(
        &self,
        reading: &Reading,
        watermark: Option<UnixMillis>,
    ) -> Result<(Passing, Option<UnixMillis>), sqlx::Error> {
        type Known = (Option<Time>, Option<i64>, Option<i64>, i64);
        let known: Option<Known> = sqlx::query_as(
            "-- passing
             SELECT passing_from, passing_need, passing_base,
                    (SELECT coalesce(sum(confirms), 0)::bigint FROM consumer_progress
                     WHERE consumer_progress.queue = queue_depth.queue)
             FROM queue_depth WHERE queue = $1",
        )
        .bind(&reading.queue)
        .fetch_optional(self.pool())
        .await?;
        let (from, need, base, confirms) = known.unwrap_or_default();
        let counted = Counted {
            read_at: moment(reading),
            ready: reading.ready,
            consumers: reading.consumers,
            confirms: number(confirms),
            watermark,
        };
        Ok(Passing::after(read_passing(from, need, base), &counted))
    }

    /// Forgets a queue that is gone: nothing lies in it, and no consumer gets messages through it. A
    /// consumer that was heard of through it since the reading began stays.
    ///
    /// # Errors
    /// When nothing was forgotten.
    pub(crate) async fn forget_queue(
        &self,
        queue: &str,
        claimed_at_us: i64,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- forget_queue
             WITH forgotten AS (
                 DELETE FROM consumer_progress
                 WHERE queue = $1
                   AND progressed_at < 'epoch'::timestamptz + $2::bigint * interval '1 us'
             )
             DELETE FROM queue_depth WHERE queue = $1",
        )
        .bind(queue)
        .bind(claimed_at_us)
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

/// A row of `queue_depth`.
#[derive(FromRow)]
struct Row {
    queue: String,
    claimed_at: Time,
    claimed_since: Time,
    read_at: Option<Time>,
    ready: Option<i64>,
    held: Option<i64>,
    empty_at: Option<Time>,
    nobody_since: Option<Time>,
    left_since: Option<Time>,
    passing_from: Option<Time>,
    passing_need: Option<i64>,
    passing_base: Option<i64>,
    passed_to: Option<Time>,
}

impl Row {
    fn read(self) -> (String, Depth) {
        let at = |time: Option<Time>| time.map(|Time(at)| at);
        let (Time(looked_at), Time(looked_since)) = (self.claimed_at, self.claimed_since);
        let reading = at(self.read_at).zip(self.ready).map(|(at, ready)| backlog::Reading {
            at,
            ready: number(ready),
            held: self.held.map(number),
        });
        let depth = Depth {
            looked_at,
            looked_since,
            reading,
            empty_at: at(self.empty_at),
            nobody_since: at(self.nobody_since),
            left_since: at(self.left_since),
            passing: read_passing(self.passing_from, self.passing_need, self.passing_base),
            passed_to: at(self.passed_to),
        };
        (self.queue, depth)
    }
}

fn read_passing(from: Option<Time>, need: Option<i64>, base: Option<i64>) -> Option<Passing> {
    let (Time(read_at), need) = from.zip(need)?;
    Some(Passing { read_at, need: number(need), base: base.map(number) })
}

/// A CHECK keeps each count from being negative.
fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// When the reading was begun. What is cut off makes it no later.
fn moment(reading: &Reading) -> UnixMillis {
    UnixMillis::from_ms(reading.claimed_at_us.div_euclid(1_000))
}

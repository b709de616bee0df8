//! Times of the future, left behind by a clock of the database that was ahead and was set back.

use std::time::Duration;

use super::Ledger;

/// How many open rows one statement moves: few enough that it takes milliseconds.
const MOVED_AT_ONCE: i64 = 1_000;

impl Ledger {
    /// Moves every time that lies after the database's present back to it, so that nothing waits for the clock to
    /// come there again. No waiting row waits longer than `longest_pause` from now on, no asking row longer than a
    /// lease.
    ///
    /// What such times say about the past is forgotten: depths are read anew, and a shard's watermark is unknown until
    /// the next marker has come back. Nothing counts as missing meanwhile.
    ///
    /// Returns how many rows were moved or forgotten.
    ///
    /// # Errors
    /// When the database does not answer; what was moved stays moved.
    pub(crate) async fn take_back_times(
        &self,
        longest_pause: Duration,
    ) -> Result<u64, sqlx::Error> {
        let mut changed = 0;
        loop {
            let moved = sqlx::query(
                "-- take_back_open_rows
                 WITH ahead AS (
                     SELECT message_id, upstream FROM overdue
                     WHERE due_at IS NOT NULL
                         AND (due_at > clock_timestamp()
                                 + CASE WHEN lease IS NULL THEN make_interval(secs => $1)
                                        ELSE interval '1 minute' END
                             OR greatest(since, granted_at) > clock_timestamp()
                             OR missing_after > clock_timestamp() + make_interval(secs => $1))
                     LIMIT $2 FOR UPDATE SKIP LOCKED
                 )
                 UPDATE overdue
                 -- A lease takes 20 s.
                 SET due_at = least(due_at, clock_timestamp()
                                 + CASE WHEN lease IS NULL THEN make_interval(secs => $1)
                                        ELSE interval '1 minute' END),
                     missing_after = least(missing_after,
                                           clock_timestamp() + make_interval(secs => $1)),
                     since = least(since, clock_timestamp()),
                     -- least() passes over a NULL, which says that nobody has granted anything.
                     granted_at = CASE WHEN granted_at IS NOT NULL
                                       THEN least(granted_at, clock_timestamp()) END
                 FROM ahead
                 WHERE overdue.message_id = ahead.message_id AND overdue.upstream = ahead.upstream",
            )
            .bind(longest_pause.as_secs_f64())
            .bind(MOVED_AT_ONCE)
            .execute(self.pool())
            .await?
            .rows_affected();
            changed += moved;
            if moved == 0 {
                break;
            }
        }
        for statement in FORGET {
            changed += sqlx::query(statement).execute(self.pool()).await?.rows_affected();
        }
        Ok(changed)
    }
}

/// The small tables: none has more rows than there are queues, shards, upstreams, consumers or open jobs, or markers
/// of an hour.
const FORGET: [&str; 7] = [
    "-- take_back_depths
     DELETE FROM queue_depth WHERE greatest(claimed_at, read_at, empty_at) > clock_timestamp()",
    "-- take_back_watermarks
     DELETE FROM shard_watermark WHERE sent_at > clock_timestamp()",
    "-- take_back_markers
     DELETE FROM confirm_marker WHERE sent_at > clock_timestamp()",
    "-- take_back_paces
     UPDATE upstream_pace SET refilled_at = clock_timestamp() WHERE refilled_at > clock_timestamp()",
    "-- take_back_tallies
     DELETE FROM upstream_tally
     WHERE half_minute > extract(epoch FROM clock_timestamp())::bigint / 30",
    "-- take_back_progress
     UPDATE consumer_progress
     SET progressed_at = least(progressed_at, clock_timestamp()),
         stalled_at = CASE WHEN stalled_at IS NOT NULL THEN least(stalled_at, clock_timestamp()) END
     WHERE greatest(progressed_at, stalled_at) > clock_timestamp()",
    "-- take_back_jobs
     UPDATE job SET begins_at = clock_timestamp()
     WHERE ended_at IS NULL AND begins_at > clock_timestamp()",
];

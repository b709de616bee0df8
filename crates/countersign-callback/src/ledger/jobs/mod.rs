//! Jobs: created in one statement, worked on under the lock of their row, and told.
//!
//! Items begin in the order of their position, so that the counts of a job also say which item is
//! next. An item ends in the statement that changes its overdue row (`write`); whoever works on the
//! job then counts it. So nothing is looked at that has not changed, and no two replicas wait for a
//! job's row.

/// A job's columns.
macro_rules! job_query {
    ($name:literal, $from:literal) => {
        concat!(
            "-- ",
            $name,
            "
             SELECT job_id, action, state, reason, who, why, rate, step, items, begun, succeeded,
                    failed, skipped, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
                    floor(extract(epoch FROM ended_at) * 1000)::bigint AS ended_at_ms,
                    floor(extract(epoch FROM begins_at) * 1000)::bigint AS begins_at_ms,
                    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
             ",
            $from
        )
    };
}

mod create;

mod locked;

mod browse;

use countersign_protocol::{MessageId, UnixMillis};
use sqlx::FromRow;
use uuid::Uuid;

pub(crate) use self::browse::ListedItem;
pub(crate) use self::locked::{Began, LockedJob};
use super::columns::read_text;
use crate::rules::job::{Ended, Job};

#[derive(FromRow)]
struct JobRow {
    job_id: Uuid,
    action: String,
    state: String,
    reason: String,
    who: String,
    why: String,
    created_at_us: i64,
    ended_at_ms: Option<i64>,
    begins_at_ms: Option<i64>,
    rate: Option<f64>,
    step: i64,
    items: i64,
    begun: i64,
    succeeded: i64,
    failed: i64,
    skipped: i64,
    now_ms: i64,
}

impl JobRow {
    fn read(self) -> Result<Job, sqlx::Error> {
        Ok(Job {
            id: self.job_id,
            action: read_text(&self.action)?,
            state: read_text(&self.state)?,
            reason: self.reason,
            who: self.who,
            why: self.why,
            created_at: UnixMillis::from_ms(self.created_at_us.div_euclid(1_000)),
            ended_at: self.ended_at_ms.map(UnixMillis::from_ms),
            rate: self.rate,
            begins_at: self.begins_at_ms.map(UnixMillis::from_ms),
            step: number(self.step),
            items: number(self.items),
            begun: number(self.begun),
            ended: Ended {
                succeeded: number(self.succeeded),
                failed: number(self.failed),
                skipped: number(self.skipped),
            },
        })
    }
}

fn uuids(ids: &[MessageId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.uuid()).collect()
}

fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

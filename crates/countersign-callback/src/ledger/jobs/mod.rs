//! Jobs: created in one statement, worked on under the lock of their row, and told.
//!
//! Items begin in the order of their position, so that the counts of a job also say which item is
//! next. An item ends in the statement that changes its overdue row (`write`); the replica that works on the
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
                    failed, skipped, created_at, ended_at, begins_at, items_kept,
                    (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us,
                    clock_timestamp() AS now
             ",
            $from
        )
    };
}

mod create;

mod locked;

mod browse;

use countersign_protocol::{MessageId, UnixMillis};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

pub(crate) use self::browse::ListedItem;
pub(crate) use self::create::Created;
pub(crate) use self::locked::{Began, LockedJob};
use super::columns::{Text, Time};
use crate::rules::job::{Ended, Job};

#[derive(FromRow)]
struct JobRow {
    #[sqlx(flatten)]
    job: Job,
    /// What a page token says, as two jobs may be created in one millisecond.
    created_at_us: i64,
    /// The database's clock.
    now: Time,
}

impl FromRow<'_, PgRow> for Job {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let Text(action) = row.try_get("action")?;
        let Text(state) = row.try_get("state")?;
        let Time(created_at) = row.try_get("created_at")?;
        let time = |column: &str| -> Result<Option<UnixMillis>, sqlx::Error> {
            Ok(row.try_get::<Option<Time>, _>(column)?.map(|Time(at)| at))
        };
        let count = |column: &str| row.try_get(column).map(number);
        Ok(Self {
            id: row.try_get("job_id")?,
            action,
            state,
            reason: row.try_get("reason")?,
            who: row.try_get("who")?,
            why: row.try_get("why")?,
            created_at,
            ended_at: time("ended_at")?,
            rate: row.try_get("rate")?,
            begins_at: time("begins_at")?,
            step: count("step")?,
            items: count("items")?,
            items_kept: row.try_get("items_kept")?,
            begun: count("begun")?,
            ended: Ended {
                succeeded: count("succeeded")?,
                failed: count("failed")?,
                skipped: count("skipped")?,
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

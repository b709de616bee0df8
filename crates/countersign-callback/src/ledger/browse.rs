//! Overdue rows, looked at by people: page by page, and counted.
//!
//! Rows are in groups: those with the same state, upstream, cause and consumers. There are few
//! groups, however many rows there are, and one index has the rows of each in the order of `since`.
//! So whatever is asked, first the groups are found by hopping from one to the next (a few dozen
//! index probes), those that the filter applies to are picked, and then each is a range of the
//! index. With 500,000 rows a page takes 2 to 5 ms, whichever the filter, and a count of 300,000 of
//! them 130 ms, all of it in the index.

use std::time::Duration;

use countersign_protocol::{MessageId, Name};
use sqlx::FromRow;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use uuid::Uuid;

use super::Ledger;
use crate::rules::filter::{Filter, texts};
use crate::rules::states::StateName;

/// The groups that a filter applies to: `$1` states, `$2` upstream, `$3` consumer, `$4` causes.
/// In one statement with what is done with them, so that a row that changes its group meanwhile is
/// seen in one of the two.
macro_rules! with_groups {
    ($name:literal, $rest:literal) => {
        concat!(
            "-- ",
            $name,
            "
             WITH RECURSIVE walk AS (
                 (SELECT state, upstream, cause, consumers FROM overdue
                  ORDER BY state, upstream, cause, consumers
                  LIMIT 1)
                 UNION ALL
                 SELECT next.state, next.upstream, next.cause, next.consumers
                 FROM walk
                 CROSS JOIN LATERAL (
                     SELECT state, upstream, cause, consumers FROM overdue
                     WHERE (overdue.state, overdue.upstream, overdue.cause, overdue.consumers)
                         > (walk.state, walk.upstream, walk.cause, walk.consumers)
                     ORDER BY state, upstream, cause, consumers
                     LIMIT 1
                 ) AS next
             ), in_filter AS (
                 SELECT state, upstream, cause, consumers FROM walk
                 WHERE state = ANY($1)
                   AND ($2::text IS NULL OR upstream = $2)
                   AND ($3::text IS NULL OR $3 = ANY(consumers))
                   AND ($4::text[] IS NULL OR cause = ANY($4))
             )
             ",
            $rest
        )
    };
}

pub(super) use with_groups;

/// Where a page begins: after this row, which may be gone or changed by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// In microseconds since 1970, as the database has it.
    pub(crate) since_us: i64,
    /// The message.
    pub(crate) message_id: MessageId,
    /// The upstream that sent the message.
    pub(crate) upstream: Name,
}

/// A row of `overdue`, as it is listed. Times are in milliseconds since 1970.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Listed {
    pub(crate) message_id: Uuid,
    pub(crate) upstream: String,
    pub(crate) consumers: Vec<String>,
    pub(crate) state: String,
    pub(crate) cause: String,
    pub(crate) reason: String,
    pub(crate) resends: i32,
    pub(crate) since_us: i64,
    pub(crate) due_at_ms: Option<i64>,
}

/// How many rows a group has.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct Counted {
    pub(crate) state: String,
    pub(crate) upstream: String,
    pub(crate) cause: String,
    pub(crate) consumers: Vec<String>,
    pub(crate) messages: i64,
    /// Since when the longest overdue of them is, in milliseconds since 1970.
    pub(crate) oldest_since_ms: i64,
}

impl Ledger {
    /// Overdue rows, the longest overdue first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn list_overdue(
        &self,
        filter: &Filter,
        after: Option<&Place>,
        limit: u32,
    ) -> Result<Vec<Listed>, sqlx::Error> {
        // The keys are found in the index alone; the rows of this page are looked up then. One lower
        // bound, as the scan of an index begins at one only.
        let sql = with_groups!(
            "list_overdue",
            ", page AS (
                 SELECT row.since, row.message_id, row.upstream
                 FROM in_filter
                 CROSS JOIN LATERAL (
                     SELECT since, message_id, upstream FROM overdue
                     WHERE overdue.state = in_filter.state
                       AND overdue.upstream = in_filter.upstream
                       AND overdue.cause = in_filter.cause
                       AND overdue.consumers = in_filter.consumers
                       AND since <= coalesce(now() - $5::bigint * interval '1 ms', 'infinity')
                       AND (since, message_id, overdue.upstream) > (
                           coalesce(
                               greatest('epoch'::timestamptz + $7::bigint * interval '1 us',
                                        now() - $6::bigint * interval '1 ms'),
                               '-infinity'),
                           $8::uuid, $9::text)
                     ORDER BY since, message_id
                     LIMIT $10
                 ) AS row
                 ORDER BY row.since, row.message_id, row.upstream
                 LIMIT $10
             )
             SELECT message_id, upstream, consumers, state, cause, reason, resends,
                    (extract(epoch FROM overdue.since) * 1000000)::bigint AS since_us,
                    CASE WHEN state = $11
                         THEN floor(extract(epoch FROM due_at) * 1000)::bigint
                    END AS due_at_ms
             FROM page
             JOIN overdue USING (message_id, upstream)
             ORDER BY overdue.since, message_id, upstream"
        );
        bound(sqlx::query_as(sql), filter)
            .bind(after.map(|place| place.since_us))
            .bind(after.map_or_else(Uuid::nil, |place| place.message_id.uuid()))
            .bind(after.map_or("", |place| place.upstream.as_str()))
            .bind(i64::from(limit))
            .bind::<&str>(StateName::Waiting.into())
            .fetch_all(self.pool())
            .await
    }

    /// How many overdue rows there are, group by group.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn count_overdue(&self, filter: &Filter) -> Result<Vec<Counted>, sqlx::Error> {
        let sql = with_groups!(
            "count_overdue",
            "SELECT in_filter.state, in_filter.upstream, in_filter.cause, in_filter.consumers,
                    counted.messages,
                    floor(extract(epoch FROM counted.oldest) * 1000)::bigint AS oldest_since_ms
             FROM in_filter
             CROSS JOIN LATERAL (
                 SELECT count(*) AS messages, min(since) AS oldest FROM overdue
                 WHERE overdue.state = in_filter.state
                   AND overdue.upstream = in_filter.upstream
                   AND overdue.cause = in_filter.cause
                   AND overdue.consumers = in_filter.consumers
                   AND since <= coalesce(now() - $5::bigint * interval '1 ms', 'infinity')
                   AND since >= coalesce(now() - $6::bigint * interval '1 ms', '-infinity')
             ) AS counted
             WHERE counted.messages > 0"
        );
        bound(sqlx::query_as(sql), filter).fetch_all(self.pool()).await
    }
}

pub(super) type Query<'q, T> = QueryAs<'q, sqlx::Postgres, T, PgArguments>;

/// `$1` to `$6`.
pub(super) fn bound<'q, T>(query: Query<'q, T>, filter: &'q Filter) -> Query<'q, T> {
    let causes = texts(&filter.causes);
    query
        .bind(texts(&filter.states))
        .bind(filter.upstream.as_ref().map(Name::as_str))
        .bind(filter.consumer.as_ref().map(Name::as_str))
        .bind((!causes.is_empty()).then_some(causes))
        .bind(filter.older_than.map(in_ms))
        .bind(filter.younger_than.map(in_ms))
}

/// Longer than anything is: a hundred years, so that no time is out of the database's range.
const LONGEST_AGE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

fn in_ms(age: Duration) -> i64 {
    i64::try_from(age.min(LONGEST_AGE).as_millis()).unwrap_or(i64::MAX)
}

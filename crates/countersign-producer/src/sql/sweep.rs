//! The sweep's lease, its two places, and the pages that it reads.
//!
//! Each of these is a single statement, so the process may die at any time.

use std::time::Duration;

use countersign_postgres::Database;
use countersign_protocol::{MessageId, Name, Tier, UnixMillis};
use sqlx::FromRow;
use uuid::Uuid;

use super::{delay_ms, message_id};
use crate::record::EnlistedMessage;

/// A row of `countersign.sweep`, and the process that goes on from it.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) upstream: Name,
    pub(crate) tier: Tier,
    pub(crate) holder: Uuid,
}

/// A walk that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BegunWalk {
    /// The last id that it has looked at.
    pub(crate) position: Option<MessageId>,
    /// When it began with the oldest id, in microseconds since 1970: it names the walk, too.
    pub(crate) begun_at_us: i64,
}

/// What one statement has read of the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    /// The committed messages of the upstream and the check delay, oldest first.
    pub(crate) messages: Vec<EnlistedMessage>,
    /// The last id that was read, whosever it is. `None` if there was none.
    pub(crate) last: Option<MessageId>,
    /// Whether there may be more.
    pub(crate) is_full: bool,
}

impl Turn {
    /// Takes the lease for `term`, unless another process has it. Returns the head's place.
    ///
    /// Postgres reads the `WHERE` under the row's lock: of two processes, one gets the row back and
    /// the other nothing.
    pub(crate) async fn take(
        &self,
        database: &Database,
        term: Duration,
    ) -> Result<Option<Option<MessageId>>, sqlx::Error> {
        let taken: Option<Option<Uuid>> = sqlx::query_scalar(
            "-- take_sweep_lease
             INSERT INTO countersign.sweep AS sweep (upstream, check_delay_ms, holder, until)
             VALUES ($1, $2, $3, now() + $4::bigint * interval '1 millisecond')
             ON CONFLICT (upstream, check_delay_ms) DO UPDATE
             SET holder = excluded.holder, until = excluded.until
             WHERE sweep.until <= now() OR sweep.holder = excluded.holder
                 -- No lease is longer than one term: a clock that was set back has left it.
                 OR sweep.until > now() + $4::bigint * interval '1 millisecond'
             RETURNING head",
        )
        .bind(self.upstream.as_str())
        .bind(delay_ms(self.tier))
        .bind(self.holder)
        .bind(whole_ms(term))
        .fetch_optional(database)
        .await?;
        taken.map(|head| head.map(message_id).transpose()).transpose()
    }

    /// Moves the head's place from `from` to `to`, and keeps all other processes out for `term`.
    /// Returns the database's time, or `None` when another process has taken the lease or an
    /// operator has set the place.
    pub(crate) async fn renew(
        &self,
        database: &Database,
        from: Option<MessageId>,
        to: Option<MessageId>,
        term: Duration,
    ) -> Result<Option<UnixMillis>, sqlx::Error> {
        let now: Option<i64> = sqlx::query_scalar(
            "-- renew_sweep_lease
             UPDATE countersign.sweep
             SET head = $5, until = now() + $6::bigint * interval '1 millisecond'
             WHERE upstream = $1 AND check_delay_ms = $2 AND holder = $3
               AND head IS NOT DISTINCT FROM $4
             RETURNING (extract(epoch FROM now()) * 1000)::bigint",
        )
        .bind(self.upstream.as_str())
        .bind(delay_ms(self.tier))
        .bind(self.holder)
        .bind(from.map(MessageId::uuid))
        .bind(to.map(MessageId::uuid))
        .bind(whole_ms(term))
        .fetch_optional(database)
        .await?;
        Ok(now.map(UnixMillis::from_ms))
    }

    /// Lets another process go on at once.
    pub(crate) async fn release(&self, database: &Database) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- release_sweep_lease
             UPDATE countersign.sweep SET until = now()
             WHERE upstream = $1 AND check_delay_ms = $2 AND holder = $3",
        )
        .bind(self.upstream.as_str())
        .bind(delay_ms(self.tier))
        .bind(self.holder)
        .execute(database)
        .await?;
        Ok(())
    }

    /// The walk that is under way. Begins one with the oldest id if none is and the last began longer
    /// than `anew` ago, or an operator asks for it. `None` if there is none.
    pub(crate) async fn walk(
        &self,
        database: &Database,
        anew: Duration,
    ) -> Result<Option<BegunWalk>, sqlx::Error> {
        let walk: Option<(Option<Uuid>, i64)> = sqlx::query_as(
            "-- begin_walk
             UPDATE countersign.sweep
             SET walk = CASE WHEN walk_begun_at IS NULL OR walk_ended_at IS NOT NULL
                             THEN NULL ELSE walk END,
                 walk_begun_at = CASE WHEN walk_begun_at IS NULL OR walk_ended_at IS NOT NULL
                                      THEN now() ELSE walk_begun_at END,
                 walk_ended_at = NULL
             WHERE upstream = $1 AND check_delay_ms = $2 AND holder = $3
               AND (walk_begun_at IS NULL OR walk_ended_at IS NULL
                    OR walk_begun_at <= now() - $4::bigint * interval '1 millisecond'
                    -- A clock that was set back has left it.
                    OR walk_begun_at > now())
             RETURNING walk, (extract(epoch FROM walk_begun_at) * 1000000)::bigint",
        )
        .bind(self.upstream.as_str())
        .bind(delay_ms(self.tier))
        .bind(self.holder)
        .bind(whole_ms(anew))
        .fetch_optional(database)
        .await?;
        let Some((position, begun_at_us)) = walk else { return Ok(None) };
        let position = position.map(message_id).transpose()?;
        Ok(Some(BegunWalk { position, begun_at_us }))
    }

    /// Stores how far the walk is, and whether it has ended. Returns `false` when it is not this
    /// process's any more, or an operator lets it begin again.
    pub(crate) async fn store_walk(
        &self,
        database: &Database,
        walk: BegunWalk,
        has_ended: bool,
    ) -> Result<bool, sqlx::Error> {
        let stored = sqlx::query(
            "-- store_walk
             UPDATE countersign.sweep
             SET walk = $5, walk_ended_at = CASE WHEN $6 THEN now() END
             WHERE upstream = $1 AND check_delay_ms = $2 AND holder = $3
               AND (extract(epoch FROM walk_begun_at) * 1000000)::bigint = $4",
        )
        .bind(self.upstream.as_str())
        .bind(delay_ms(self.tier))
        .bind(self.holder)
        .bind(walk.begun_at_us)
        .bind(walk.position.map(MessageId::uuid))
        .bind(has_ended)
        .execute(database)
        .await?;
        Ok(stored.rows_affected() > 0)
    }

    /// Reads up to `limit` rows of the table after one id and up to another, oldest first.
    ///
    /// The limit is on what is read, not on what is found: a rare upstream beside a busy one, or one
    /// of two check delays, would otherwise read days of the table in one statement. Both bounds are
    /// given, so that Postgres reads only their partitions.
    pub(crate) async fn page(
        &self,
        database: &Database,
        after: Option<MessageId>,
        up_to: MessageId,
        limit: u16,
    ) -> Result<Page, sqlx::Error> {
        let rows: Vec<PageRow> = sqlx::query_as(
            "-- enlisted_page
             WITH page AS MATERIALIZED (
                 SELECT message_id, consumers,
                        state = 'enlisted' AND upstream = $4
                            AND coalesce(check_delay_ms, $5) = $5 AS is_asked_about
                 FROM countersign.enlisted
                 WHERE message_id > $1 AND message_id <= $2
                 ORDER BY message_id LIMIT $3
             ), last AS (
                 SELECT message_id, (SELECT count(*) FROM page) AS read
                 FROM page ORDER BY message_id DESC LIMIT 1
             )
             SELECT page.message_id, page.consumers, page.is_asked_about, last.read
             FROM page CROSS JOIN last
             WHERE page.is_asked_about OR page.message_id = last.message_id
             ORDER BY page.message_id",
        )
        .bind(after.map_or(Uuid::nil(), MessageId::uuid))
        .bind(up_to.uuid())
        .bind(i64::from(limit))
        .bind(self.upstream.as_str())
        .bind(delay_ms(self.tier))
        .fetch_all(database)
        .await?;
        let Some(last) = rows.last() else { return Ok(Page::default()) };
        let (last, is_full) = (message_id(last.message_id)?, last.read >= i64::from(limit));
        let asked_about = rows.into_iter().filter(|row| row.is_asked_about);
        let messages = asked_about.map(PageRow::read).collect::<Result<_, _>>()?;
        Ok(Page { messages, last: Some(last), is_full })
    }
}

#[derive(FromRow)]
struct PageRow {
    message_id: Uuid,
    consumers: Option<String>,
    is_asked_about: bool,
    read: i64,
}

impl PageRow {
    fn read(self) -> Result<EnlistedMessage, sqlx::Error> {
        let names = self.consumers.iter().flat_map(|names| names.split(','));
        let consumers = names.map(str::parse).collect::<Result<Vec<Name>, _>>();
        let consumers = consumers.map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(EnlistedMessage { id: message_id(self.message_id)?, consumers })
    }
}

fn whole_ms(duration: Duration) -> i64 {
    // A longer interval would lead to a time outside of Postgres's range.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    i64::try_from(duration.min(LONGEST).as_millis()).unwrap_or(i64::MAX)
}

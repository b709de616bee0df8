//! How far upstreams' sweeps are, as they say.

use std::collections::BTreeMap;

use countersign_protocol::{DatabaseId, Name, UnixMillis};
use sqlx::FromRow;
use uuid::Uuid;

use super::Ledger;
use super::columns::{Text, Time};

/// How far a sweep says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SweepProgress {
    pub(crate) check_delay_ms: u64,
    pub(crate) behind_ms: u64,
    /// When the last message was made that its walk has asked about, and when the walk began. `None` if no
    /// walk is under way.
    pub(crate) walk: Option<(UnixMillis, UnixMillis)>,
}

/// What a sweep has said. Times are in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct ToldSweep {
    /// The nil UUID if it does not say.
    pub(crate) database: Uuid,
    pub(crate) check_delay_ms: i64,
    pub(crate) behind_ms: i64,
    /// 0 if no walk was under way.
    pub(crate) walk_at_ms: i64,
    pub(crate) walk_began_at_ms: i64,
    /// How long ago that was.
    pub(crate) told_ms_ago: i64,
}

#[derive(FromRow)]
struct OfUpstream {
    upstream: Text<Name>,
    #[sqlx(flatten)]
    told: ToldSweep,
}

impl Ledger {
    /// Notes what a sweep says. A sweep says it every minute, and more often while it catches up.
    ///
    /// # Errors
    /// When it was not noted.
    pub(crate) async fn note_sweep(
        &self,
        upstream: &Name,
        database: Option<DatabaseId>,
        progress: &SweepProgress,
    ) -> Result<(), sqlx::Error> {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        sqlx::query(
            "-- note_sweep
             INSERT INTO upstream_sweep AS told
                 (upstream, database, check_delay_ms, behind_ms, walk_at, walk_began_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (upstream, database, check_delay_ms) DO UPDATE
             SET behind_ms = excluded.behind_ms, walk_at = excluded.walk_at,
                 walk_began_at = excluded.walk_began_at, told_at = excluded.told_at",
        )
        .bind(upstream.as_str())
        .bind(database.map_or(Uuid::nil(), DatabaseId::uuid))
        .bind(number(progress.check_delay_ms))
        .bind(number(progress.behind_ms))
        .bind(progress.walk.map(|(at, _)| Time(at)))
        .bind(progress.walk.map(|(_, began)| Time(began)))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// What sweeps have said, by upstream.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn sweeps(&self) -> Result<BTreeMap<Name, Vec<ToldSweep>>, sqlx::Error> {
        let rows: Vec<OfUpstream> = sqlx::query_as(
            "-- sweeps
             SELECT upstream, database, check_delay_ms, behind_ms,
                    coalesce(floor(extract(epoch FROM walk_at) * 1000), 0)::bigint AS walk_at_ms,
                    coalesce(floor(extract(epoch FROM walk_began_at) * 1000), 0)::bigint
                        AS walk_began_at_ms,
                    greatest(floor(extract(epoch FROM clock_timestamp() - told_at) * 1000), 0)::bigint
                        AS told_ms_ago
             FROM upstream_sweep ORDER BY upstream, database, check_delay_ms",
        )
        .fetch_all(self.pool())
        .await?;
        let mut sweeps: BTreeMap<Name, Vec<ToldSweep>> = BTreeMap::new();
        for OfUpstream { upstream: Text(upstream), told } in rows {
            sweeps.entry(upstream).or_default().push(told);
        }
        Ok(sweeps)
    }

    /// Forgets sweeps that have said nothing for longer than the retention.
    ///
    /// # Errors
    /// When none was forgotten.
    pub(crate) async fn prune_sweeps(&self, now: UnixMillis) -> Result<(), sqlx::Error> {
        sqlx::query("-- prune_sweeps\nDELETE FROM upstream_sweep WHERE told_at < $1")
            .bind(Time(now.before(self.retention)))
            .execute(self.pool())
            .await?;
        Ok(())
    }
}

//! How fast upstreams are asked, agreed on by all replicas.
//!
//! A transaction that locks several things locks them in this order: the row of a `job`, rows of
//! `overdue` by key, of `upstream_tally` by name, of `upstream_pace` by name; rows of one table all in
//! one statement. So no two of them wait for each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_postgres::Transaction;
use countersign_protocol::Name;
use sqlx::{FromRow, PgExecutor};

use super::columns::{read_text, stored_count, texts};
use super::tallies::{Tallies, add};
use super::{Ledger, Taken, committed};
use crate::rules::budget::{Pace, Pacing, Scene, Storm, Tally};
use crate::rules::states::StateName;

/// Rows whose resend is under way, or was lost. Written out, and word for word as in the index
/// `overdue_resent`: Postgres uses a partial index only where it can prove its predicate, which it cannot
/// of a parameter. A deferral waits for a consumer that is behind or tries again: it is no canary.
macro_rules! under_way {
    () => {
        "due_at IS NOT NULL AND resends >= 1
               AND (state = 'asking' OR cause IN ('republished', 'unanswered'))"
    };
}

/// What is stored about each upstream, and what is going on.
pub(crate) type Paces = BTreeMap<Name, Paced>;

/// What is stored about an upstream, locked, and what is going on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paced {
    /// What is stored.
    pub(crate) pace: Pace,
    /// What is going on, as far as it is stored.
    pub(crate) scene: Scene,
    /// When that was read, in seconds since 1970 on the database's clock.
    at_s: f64,
}

impl Ledger {
    /// The upstreams in a storm, and those in which one wanes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn storms(&self) -> Result<Vec<Name>, sqlx::Error> {
        let names: Vec<String> = sqlx::query_scalar(
            "-- storms
             SELECT upstream FROM upstream_pace WHERE canaries IS NOT NULL ORDER BY upstream",
        )
        .fetch_all(&self.pool)
        .await?;
        names.iter().map(|name| read_text(name)).collect()
    }

    /// The upstreams that were ever asked or have something open.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn upstreams(&self) -> Result<BTreeMap<Name, UpstreamLoad>, sqlx::Error> {
        let rows: Vec<(String, Option<i32>, bool, i64)> = sqlx::query_as(concat!(
            "-- upstreams
             ",
            open_upstreams!(),
            ", known AS (
                 SELECT upstream FROM open_upstream WHERE upstream IS NOT NULL
                 UNION
                 SELECT upstream FROM upstream_pace
             )
             SELECT upstream, canaries, coalesce(canaries_only, false), (
                 SELECT count(*) FROM overdue
                 WHERE overdue.upstream = known.upstream
                   AND due_at IS NOT NULL AND due_at <= now()
             )
             FROM known LEFT JOIN upstream_pace USING (upstream)"
        ))
        .fetch_all(&self.pool)
        .await?;
        let known = |(upstream, canaries, canaries_only, due): (String, Option<i32>, bool, i64)| {
            let storm = storm(canaries, canaries_only);
            let known = UpstreamLoad { storm, due: u64::try_from(due).unwrap_or(0) };
            Ok((read_text(&upstream)?, known))
        };
        rows.into_iter().map(known).collect()
    }

    /// Decides anew about these upstreams, although nobody is about to be asked: what `decide` makes
    /// of each is stored.
    ///
    /// # Errors
    /// When nothing was stored, or nobody knows whether it was.
    pub(crate) async fn repace(
        &self,
        upstreams: &[Name],
        pacing: &Pacing,
        mut decide: impl FnMut(&Name, Pace, &Scene) -> Pace + Send,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = Transaction::open(&self.pool, "").await?;
        lock_paces(&mut transaction, upstreams.iter(), pacing).await?;
        let mut paces = paces(&mut transaction, upstreams, pacing).await?;
        let due: Vec<(String, i64)> = sqlx::query_as(
            "-- due_up_to
             SELECT upstream, (
                 SELECT count(*) FROM (
                     SELECT FROM overdue
                     WHERE overdue.upstream = asked.upstream
                       AND due_at IS NOT NULL AND due_at <= now()
                     LIMIT $2
                 ) AS due
             )
             FROM UNNEST($1::text[]) AS asked (upstream)",
        )
        .bind(texts(upstreams))
        .bind(i64::from(pacing.enough_canaries()))
        .fetch_all(&mut transaction)
        .await?;
        for (upstream, due) in due {
            let upstream: Name = read_text(&upstream)?;
            if let Some(paced) = paces.get_mut(&upstream) {
                paced.scene.wanted = u32::try_from(due).unwrap_or(u32::MAX);
                paced.pace = decide(&upstream, paced.pace, &paced.scene);
            }
        }
        store(&mut transaction, &paces).await?;
        committed(transaction).await
    }
}

impl Taken {
    /// What is stored about these upstreams.
    ///
    /// Their rows are locked until [`write`](Self::write), and in the same step those that
    /// [`add_canaries`](Self::add_canaries) changes for `confirmed`: two replicas that lock rows of
    /// two upstreams in two steps each can wait for each other.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn paces(
        &mut self,
        upstreams: &[Name],
        confirmed: &BTreeMap<Name, u32>,
        pacing: &Pacing,
    ) -> Result<Paces, sqlx::Error> {
        let locked: BTreeSet<&Name> = upstreams.iter().chain(confirmed.keys()).collect();
        lock_paces(&mut self.transaction, locked.into_iter(), pacing).await?;
        paces(&mut self.transaction, upstreams, pacing).await
    }

    /// Stores what was decided about upstreams, with what [`write`](Self::write) writes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn store_paces(&mut self, paces: &Paces) -> Result<(), sqlx::Error> {
        store(&mut self.transaction, paces).await
    }

    /// Lets each upstream have more canaries under way, if it has any, with what
    /// [`write`](Self::write) writes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn add_canaries(
        &mut self,
        confirmed: &BTreeMap<Name, u32>,
    ) -> Result<(), sqlx::Error> {
        if confirmed.is_empty() {
            return Ok(());
        }
        let upstreams: Vec<&str> = confirmed.keys().map(Name::as_str).collect();
        let more: Vec<i32> = confirmed.values().map(|count| stored_count(*count)).collect();
        // The rows are locked by name in a step of their own: an UPDATE alone locks in any order, and
        // two replicas would wait for each other.
        sqlx::query(
            "-- add_canaries
             WITH locked AS MATERIALIZED (
                 SELECT upstream FROM upstream_pace
                 WHERE canaries IS NOT NULL AND upstream = ANY($1)
                 ORDER BY upstream FOR UPDATE
             )
             UPDATE upstream_pace AS pace SET canaries = pace.canaries + confirmed.more
             FROM locked JOIN UNNEST($1::text[], $2::integer[]) AS confirmed (upstream, more)
                 USING (upstream)
             WHERE pace.upstream = locked.upstream",
        )
        .bind(upstreams)
        .bind(more)
        .execute(&mut self.transaction)
        .await?;
        Ok(())
    }

    /// What upstreams answered, with what [`write`](Self::write) writes: adds it to the tallies, gives
    /// a token back for each call that no resend came of, and adds a canary for each confirmed one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn heard(
        &mut self,
        tallies: &Tallies,
        unused: &BTreeMap<Name, u32>,
        confirmed: &BTreeMap<Name, u32>,
        pacing: &Pacing,
    ) -> Result<(), sqlx::Error> {
        if !tallies.is_empty() {
            add(&mut self.transaction, tallies).await?;
        }
        let upstreams: BTreeSet<&Name> = unused.keys().chain(confirmed.keys()).collect();
        if upstreams.is_empty() {
            return Ok(());
        }
        let of = |counts: &BTreeMap<Name, u32>| -> Vec<i32> {
            let count = |upstream: &&Name| counts.get(*upstream).copied().unwrap_or(0);
            upstreams.iter().map(count).map(stored_count).collect()
        };
        // One statement for tokens and canaries, so that all rows are locked in one step, by name. An
        // upstream without canaries has NULL of them, and NULL stays NULL whatever is added.
        sqlx::query(
            "-- give_back
             WITH given AS (
                 SELECT * FROM UNNEST($1::text[], $2::integer[], $3::integer[])
                     AS given (upstream, tokens, canaries)
             ), locked AS MATERIALIZED (
                 SELECT pace.upstream FROM upstream_pace AS pace JOIN given USING (upstream)
                 WHERE given.tokens > 0 OR pace.canaries IS NOT NULL
                 ORDER BY pace.upstream FOR UPDATE OF pace
             )
             UPDATE upstream_pace AS pace
             SET tokens = least(pace.tokens + given.tokens, $4),
                 canaries = pace.canaries + given.canaries
             FROM locked JOIN given USING (upstream)
             WHERE pace.upstream = locked.upstream",
        )
        .bind(upstreams.iter().map(|upstream| upstream.as_str()).collect::<Vec<_>>())
        .bind(of(unused))
        .bind(of(confirmed))
        .bind(pacing.burst())
        .execute(&mut self.transaction)
        .await?;
        Ok(())
    }
}

#[derive(FromRow)]
struct PaceRow {
    upstream: String,
    tokens: f64,
    canaries: Option<i32>,
    canaries_only: bool,
    at_s: f64,
    elapsed_s: f64,
    looked_up: i64,
    unconfirmed: i64,
    missing: i64,
    not_missing: i64,
    asking: i64,
    resent: i64,
    lost: i64,
}

/// Locks the rows of these upstreams by name, and makes those that are not there yet.
///
/// The order is that of the column, which sorts by bytes: names from an array would be sorted as the
/// database's language has it, where "a-c" may come after "ab".
async fn lock_paces(
    transaction: &mut Transaction,
    upstreams: impl Iterator<Item = &Name>,
    pacing: &Pacing,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- lock_paces
         INSERT INTO upstream_pace AS pace (upstream, tokens)
         SELECT upstream, $2 FROM UNNEST($1::text[]) AS asked (upstream)
         ORDER BY upstream COLLATE \"C\"
         ON CONFLICT (upstream) DO UPDATE SET tokens = pace.tokens",
    )
    .bind(upstreams.map(Name::as_str).collect::<Vec<_>>())
    .bind(pacing.burst())
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

/// Reads the rows of these upstreams, and what is under way. To be called in a statement after
/// [`lock_paces`]: a statement that waits for a lock sees the ledger as it was before the transaction
/// that held it was committed.
async fn paces(
    transaction: &mut Transaction,
    upstreams: &[Name],
    pacing: &Pacing,
) -> Result<Paces, sqlx::Error> {
    let rows: Vec<PaceRow> = sqlx::query_as(concat!(
        "-- paces
         SELECT upstream, tokens, canaries, canaries_only,
                extract(epoch FROM statement_timestamp())::float8 AS at_s,
                greatest(extract(epoch FROM statement_timestamp() - refilled_at), 0)::float8
                    AS elapsed_s,
                tally.looked_up, tally.unconfirmed, tally.missing, tally.not_missing,
                resent.asking, resent.resent, lost.lost
         FROM upstream_pace CROSS JOIN LATERAL (
             SELECT coalesce(sum(looked_up), 0)::bigint AS looked_up,
                    coalesce(sum(unconfirmed), 0)::bigint AS unconfirmed,
                    coalesce(sum(missing), 0)::bigint AS missing,
                    coalesce(sum(not_missing), 0)::bigint AS not_missing
             FROM upstream_tally
             WHERE upstream_tally.upstream = upstream_pace.upstream
               AND half_minute >= floor(extract(epoch FROM now()) / 30)::bigint - 1
         ) AS tally CROSS JOIN LATERAL (
             SELECT count(*) AS resent, count(*) FILTER (WHERE state = $3) AS asking
             FROM (
                 SELECT state FROM overdue
                 WHERE overdue.upstream = upstream_pace.upstream
                   AND ",
        under_way!(),
        " AND due_at > statement_timestamp()
                 LIMIT $2
             ) AS under_way
         ) AS resent CROSS JOIN LATERAL (
             SELECT count(*) AS lost FROM overdue
             WHERE overdue.upstream = upstream_pace.upstream
               AND ",
        under_way!(),
        " AND due_at > upstream_pace.refilled_at AND due_at <= statement_timestamp()
               AND state = $4
         ) AS lost
         WHERE upstream = ANY($1)"
    ))
    .bind(texts(upstreams))
    .bind(i64::from(pacing.enough_canaries()) + 1)
    .bind::<&str>(StateName::Asking.into())
    .bind::<&str>(StateName::Waiting.into())
    .fetch_all(&mut *transaction)
    .await?;
    rows.into_iter().map(PaceRow::read).collect()
}

async fn store(connection: impl PgExecutor<'_>, paces: &Paces) -> Result<(), sqlx::Error> {
    let upstreams: Vec<&str> = paces.keys().map(Name::as_str).collect();
    let tokens: Vec<f64> = paces.values().map(|paced| paced.pace.tokens).collect();
    let canaries: Vec<Option<i32>> =
        paces.values().map(|paced| paced.pace.storm.canaries().map(stored_count)).collect();
    let storm: Vec<bool> =
        paces.values().map(|p| matches!(p.pace.storm, Storm::CanariesOnly { .. })).collect();
    let at: Vec<f64> = paces.values().map(|paced| paced.at_s).collect();
    sqlx::query(
        "-- store_paces
         UPDATE upstream_pace
         SET tokens = decided.tokens, canaries = decided.canaries,
             canaries_only = decided.canaries_only,
             refilled_at = greatest(to_timestamp(decided.at_s), refilled_at)
         FROM UNNEST($1::text[], $2::float8[], $3::integer[], $4::boolean[], $5::float8[])
             AS decided (upstream, tokens, canaries, canaries_only, at_s)
         WHERE upstream_pace.upstream = decided.upstream",
    )
    .bind(upstreams)
    .bind(tokens)
    .bind(canaries)
    .bind(storm)
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

impl PaceRow {
    fn read(self) -> Result<(Name, Paced), sqlx::Error> {
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        let small = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        let storm = storm(self.canaries, self.canaries_only);
        let paced = Paced {
            pace: Pace { tokens: self.tokens, storm },
            scene: Scene {
                elapsed: Duration::try_from_secs_f64(self.elapsed_s).unwrap_or_default(),
                tally: Tally {
                    looked_up: count(self.looked_up),
                    unconfirmed: count(self.unconfirmed),
                    missing: count(self.missing),
                    not_missing: count(self.not_missing),
                },
                asking: small(self.asking),
                unconfirmed: small(self.resent),
                lost: small(self.lost),
                wanted: 0,
            },
            at_s: self.at_s,
        };
        Ok((read_text(&self.upstream)?, paced))
    }
}

fn storm(canaries: Option<i32>, canaries_only: bool) -> Storm {
    match (canaries.and_then(|canaries| u32::try_from(canaries).ok()), canaries_only) {
        (None, _) => Storm::Absent,
        (Some(canaries), true) => Storm::CanariesOnly { canaries },
        (Some(canaries), false) => Storm::Waning { canaries },
    }
}

/// What the ledger knows of an upstream, as a person sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpstreamLoad {
    /// Whether much is missing.
    pub(crate) storm: Storm,
    /// How many of its messages are due and wait for their turn.
    pub(crate) due: u64,
}

impl Default for UpstreamLoad {
    fn default() -> Self {
        Self { storm: Storm::Absent, due: 0 }
    }
}

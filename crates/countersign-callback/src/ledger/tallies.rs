//! What became of checks, counted by upstream and half minute.

use std::collections::BTreeMap;

use countersign_protocol::Name;
use sqlx::PgExecutor;

use super::Ledger;
use super::columns::stored_total;
use crate::rules::budget::Tally;

/// What became of checks, by upstream.
pub(crate) type Tallies = BTreeMap<Name, Tally>;

impl Ledger {
    /// Adds these tallies to those of all replicas, and deletes the ones that no decision reads any
    /// more.
    ///
    /// # Errors
    /// When the database does not answer: the tallies may have been added or not.
    pub(crate) async fn tally(&self, tallies: &Tallies) -> Result<(), sqlx::Error> {
        if !tallies.is_empty() {
            add(&self.pool, tallies).await?;
        }
        sqlx::query(
            "-- forget_tallies
             DELETE FROM upstream_tally
             WHERE half_minute < floor(extract(epoch FROM now()) / 30)::bigint - 2",
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Adds `more` to `tallies`.
pub(crate) fn merge(tallies: &mut Tallies, more: Tallies) {
    for (upstream, tally) in more {
        *tallies.entry(upstream).or_default() += tally;
    }
}

/// Adds these tallies to those of all replicas, in the order in which every transaction locks them.
pub(super) async fn add(
    connection: impl PgExecutor<'_>,
    tallies: &Tallies,
) -> Result<(), sqlx::Error> {
    let upstreams: Vec<&str> = tallies.keys().map(Name::as_str).collect();
    let column = |count: fn(&Tally) -> u64| -> Vec<i64> {
        tallies.values().map(|tally| stored_total(count(tally))).collect()
    };
    sqlx::query(
        "-- tally
         INSERT INTO upstream_tally AS tally
             (upstream, half_minute, looked_up, unconfirmed, missing, not_missing)
         SELECT upstream, floor(extract(epoch FROM now()) / 30)::bigint,
                looked_up, unconfirmed, missing, not_missing
         FROM UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
             AS more (upstream, looked_up, unconfirmed, missing, not_missing)
         ORDER BY upstream COLLATE \"C\"
         ON CONFLICT (upstream, half_minute) DO UPDATE
         SET looked_up = tally.looked_up + excluded.looked_up,
             unconfirmed = tally.unconfirmed + excluded.unconfirmed,
             missing = tally.missing + excluded.missing,
             not_missing = tally.not_missing + excluded.not_missing",
    )
    .bind(upstreams)
    .bind(column(|tally| tally.looked_up))
    .bind(column(|tally| tally.unconfirmed))
    .bind(column(|tally| tally.missing))
    .bind(column(|tally| tally.not_missing))
    .execute(connection)
    .await?;
    Ok(())
}

//! What upstreams say was rolled back.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_protocol::{ArmingId, Name};
use uuid::Uuid;

use super::Ledger;
use super::columns::{Id, Ids, Text};
use crate::rules::overdue::Key;

/// One arming of one upstream's message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RolledBackArming {
    /// The message and its upstream.
    pub(crate) key: Key,
    /// Which arming of it.
    pub(crate) arming: ArmingId,
}

/// How long it is known. A check comes due at most 24 h after it was armed, and that is soon after its
/// id was made.
pub(crate) const KEPT: Duration = Duration::from_secs(2 * 24 * 60 * 60);

impl Ledger {
    /// Records what was rolled back.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub(crate) async fn record_rolled_back(
        &self,
        armed: &[RolledBackArming],
    ) -> Result<(), sqlx::Error> {
        if armed.is_empty() {
            return Ok(());
        }
        let mut sorted: Vec<&RolledBackArming> = armed.iter().collect();
        sorted.sort_unstable();
        let columns = Columns::of(sorted.into_iter());
        sqlx::query(
            "-- record_rolled_back
             INSERT INTO rolled_back (message_id, upstream, arming)
             SELECT message_id, upstream, arming
             FROM UNNEST($1::uuid[], $2::text[], $3::bigint[])
                 AS entry (message_id, upstream, arming)
             ON CONFLICT DO NOTHING",
        )
        .bind(columns.ids)
        .bind(columns.upstreams)
        .bind(columns.armings)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Which of these armings were rolled back.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn rolled_back(
        &self,
        armed: &[RolledBackArming],
    ) -> Result<BTreeSet<RolledBackArming>, sqlx::Error> {
        let Some(ids) = Ids::of(armed.iter().map(|armed| armed.key.message_id)) else {
            return Ok(BTreeSet::new());
        };
        let columns = Columns::of(armed.iter());
        let rows: Vec<(Id, Text<Name>, i64)> = sqlx::query_as(
            "-- rolled_back
             SELECT message_id, upstream, arming FROM rolled_back
             WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)
             INTERSECT
             SELECT * FROM UNNEST($4::uuid[], $5::text[], $6::bigint[])",
        )
        .bind(ids.first)
        .bind(ids.last)
        .bind(ids.all)
        .bind(columns.ids)
        .bind(columns.upstreams)
        .bind(columns.armings)
        .fetch_all(self.pool())
        .await?;
        let arming =
            |(Id(message_id), Text(upstream), bits): (Id, Text<Name>, i64)| RolledBackArming {
                key: Key { message_id, upstream },
                arming: ArmingId::from_bits(bits.cast_unsigned()),
            };
        Ok(rows.into_iter().map(arming).collect())
    }
}

/// Armings as arrays.
struct Columns<'a> {
    ids: Vec<Uuid>,
    upstreams: Vec<&'a str>,
    armings: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(armed: impl Iterator<Item = &'a RolledBackArming> + Clone) -> Self {
        Self {
            ids: armed.clone().map(|armed| armed.key.message_id.uuid()).collect(),
            upstreams: armed.clone().map(|armed| armed.key.upstream.as_str()).collect(),
            armings: armed.map(|armed| armed.arming.bits().cast_signed()).collect(),
        }
    }
}

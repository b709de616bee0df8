//! What upstreams say was rolled back.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_postgres::Partitions;
use countersign_protocol::ArmingId;
use sqlx::Row as _;
use uuid::Uuid;

use super::Ledger;
use super::columns::{Ids, read_id, read_text};
use crate::rules::overdue::Key;

/// One arming of one upstream's message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Armed {
    /// Which message of whom.
    pub(crate) key: Key,
    /// Which arming of it.
    pub(crate) arming: ArmingId,
}

/// How long it is known. A check comes due at most 24 h after it was armed, and that is soon after its
/// id was made.
pub(crate) const KEPT: Duration = Duration::from_secs(2 * 24 * 60 * 60);

impl Ledger {
    /// The partitions of what was rolled back.
    #[must_use]
    pub(crate) fn rolled_back_partitions() -> Partitions {
        Partitions::new("rolled_back", KEPT)
    }

    /// Records what was rolled back.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub(crate) async fn record_rolled_back(&self, armed: &[Armed]) -> Result<(), sqlx::Error> {
        if armed.is_empty() {
            return Ok(());
        }
        let mut sorted: Vec<&Armed> = armed.iter().collect();
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
        armed: &[Armed],
    ) -> Result<BTreeSet<Armed>, sqlx::Error> {
        let Some(ids) = Ids::of(armed.iter().map(|armed| armed.key.message_id)) else {
            return Ok(BTreeSet::new());
        };
        let columns = Columns::of(armed.iter());
        let rows = sqlx::query(
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
        let read = |row: sqlx::postgres::PgRow| {
            let key = Key {
                message_id: read_id(row.try_get(0)?)?,
                upstream: read_text(row.try_get::<&str, _>(1)?)?,
            };
            Ok(Armed {
                key,
                arming: ArmingId::from_bits(row.try_get::<i64, _>(2)?.cast_unsigned()),
            })
        };
        rows.into_iter().map(read).collect()
    }
}

/// Armings as arrays.
struct Columns<'a> {
    ids: Vec<Uuid>,
    upstreams: Vec<&'a str>,
    armings: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(armed: impl Iterator<Item = &'a Armed> + Clone) -> Self {
        Self {
            ids: armed.clone().map(|armed| armed.key.message_id.uuid()).collect(),
            upstreams: armed.clone().map(|armed| armed.key.upstream.as_str()).collect(),
            armings: armed.map(|armed| armed.arming.bits().cast_signed()).collect(),
        }
    }
}

//! Confirm markers: which were sent through each shard, and which have come back.

use std::time::Duration;

use countersign_protocol::{Marker, UnixMillis};

use super::Ledger;
use super::columns::Time;

/// What is known of one shard's markers. Times are on the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardMarkers {
    /// Which shard.
    pub(crate) shard: u16,
    /// Everything that was in the shard before this moment is recorded. `None` if no marker has ever
    /// come back.
    pub(crate) watermark: Option<UnixMillis>,
    /// When the oldest was sent that has not come back, of those sent after the watermark.
    pub(crate) missed_since: Option<UnixMillis>,
}

impl Ledger {
    /// What is known of each confirm shard's markers, and the time.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn markers(&self) -> Result<(Vec<ShardMarkers>, UnixMillis), sqlx::Error> {
        type Shard = (i32, Option<Time>, Option<Time>, Time);
        let rows: Vec<Shard> = sqlx::query_as(
            "-- markers
             SELECT shard, shard_watermark.sent_at,
                    (SELECT min(sent_at) FROM confirm_marker
                     WHERE confirm_marker.shard = confirm_shard.shard AND returned_at IS NULL
                       AND sent_at > coalesce(shard_watermark.sent_at, '-infinity'))
                        AS missed_since,
                    clock_timestamp() AS now
             FROM confirm_shard LEFT JOIN shard_watermark USING (shard)",
        )
        .fetch_all(self.pool())
        .await?;
        let now = rows.first().map_or(UnixMillis::EPOCH, |(.., Time(now))| *now);
        let markers = rows.into_iter().map(|(shard, watermark, missed_since, _)| ShardMarkers {
            shard: u16::try_from(shard).unwrap_or(u16::MAX),
            watermark: watermark.map(|Time(at)| at),
            missed_since: missed_since.map(|Time(at)| at),
        });
        Ok((markers.collect(), now))
    }

    /// Notes that a replica is configured with so many confirm shards. Returns how many there are to be consumed: as
    /// many as any replica was ever configured with, since consumers may still confirm through each of them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn confirm_shards(&self, configured: u16) -> Result<u16, sqlx::Error> {
        sqlx::query(
            "-- note_confirm_shards
             INSERT INTO confirm_shard (shard) SELECT generate_series(0, $1 - 1)
             ON CONFLICT DO NOTHING",
        )
        .bind(i32::from(configured))
        .execute(self.pool())
        .await?;
        self.shards_in_use().await
    }

    /// How many confirm shards there are to be consumed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn shards_in_use(&self) -> Result<u16, sqlx::Error> {
        let last: Option<i32> =
            sqlx::query_scalar("-- shards_in_use\nSELECT max(shard) FROM confirm_shard")
                .fetch_one(self.pool())
                .await?;
        Ok(last.map_or(0, |last| u16::try_from(last).unwrap_or(u16::MAX).saturating_add(1)))
    }

    /// Everything that was in any confirm shard before this moment is recorded: the oldest of
    /// their watermarks, on the database's clock. `None` while one has none; one of the future, which a clock
    /// that was set back has left, is none.
    ///
    /// A shard counts from the moment on in which a replica has noted that it is configured with it: no
    /// replica judges without a shard that another one has added.
    ///
    /// To be read before what is recorded, which is then at least as new.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn watermark(&self) -> Result<Option<UnixMillis>, sqlx::Error> {
        let oldest: Option<Time> = sqlx::query_scalar(
            "-- watermark
             SELECT CASE WHEN bool_and(coalesce(sent_at <= clock_timestamp(), FALSE)) THEN min(sent_at) END
             FROM confirm_shard LEFT JOIN shard_watermark USING (shard)",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(oldest.map(|Time(at)| at))
    }

    /// Makes a marker for each of these shards through which none is awaited, or for so long that
    /// it is given up. They are to be sent; committed before that, so that no marker travels that
    /// is not known. Of several replicas that do this at once, one gets the marker.
    ///
    /// # Errors
    /// When none was made.
    pub(crate) async fn make_markers(
        &self,
        shards: &[u16],
        given_up_after: Duration,
    ) -> Result<Vec<Marker>, sqlx::Error> {
        sqlx::query(
            "-- give_markers_up
             UPDATE confirm_marker SET awaited = false
             WHERE awaited AND shard = ANY($1)
               AND sent_at < clock_timestamp() - make_interval(secs => $2)",
        )
        .bind(stored(shards))
        .bind(given_up_after.as_secs_f64())
        .execute(self.pool())
        .await?;
        let made: Vec<(i64, i32)> = sqlx::query_as(
            "-- make_markers
             INSERT INTO confirm_marker (shard)
             SELECT shard FROM UNNEST($1::integer[]) AS configured (shard) ORDER BY shard
             ON CONFLICT (shard) WHERE awaited DO NOTHING
             RETURNING number, shard",
        )
        .bind(stored(shards))
        .fetch_all(self.pool())
        .await?;
        let marker = |(number, shard): (i64, i32)| {
            Some(Marker { number, shard: u16::try_from(shard).ok()? })
        };
        Ok(made.into_iter().filter_map(marker).collect())
    }

    /// A marker that could not be sent is not awaited any more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn give_marker_up(&self, marker: Marker) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- give_marker_up\nUPDATE confirm_marker SET awaited = false WHERE number = $1",
        )
        .bind(marker.number)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Notes that these markers have come back, and moves the watermark of their shard. To be called
    /// when everything that came before them is committed. Says which of them are known here, be it
    /// from before.
    ///
    /// # Errors
    /// When nothing was noted.
    pub(crate) async fn markers_returned(
        &self,
        markers: &[Marker],
    ) -> Result<Vec<Marker>, sqlx::Error> {
        if markers.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<i64> = markers.iter().map(|marker| marker.number).collect();
        let shards: Vec<i32> = markers.iter().map(|marker| i32::from(marker.shard)).collect();
        let known: Vec<(i64, i32)> = sqlx::query_as(
            "-- markers_returned
             WITH returned AS (
                 UPDATE confirm_marker
                 SET returned_at = coalesce(returned_at, clock_timestamp()), awaited = false
                 FROM (
                     SELECT DISTINCT number, shard
                     FROM UNNEST($1::bigint[], $2::integer[]) AS entry (number, shard)
                 ) AS entry
                 WHERE confirm_marker.number = entry.number AND confirm_marker.shard = entry.shard
                 RETURNING confirm_marker.number, confirm_marker.shard, confirm_marker.sent_at
             ), moved AS (
                 INSERT INTO shard_watermark AS known (shard, sent_at)
                 SELECT shard, max(sent_at) FROM returned GROUP BY shard ORDER BY shard
                 ON CONFLICT (shard) DO UPDATE SET sent_at = excluded.sent_at
                 WHERE known.sent_at < excluded.sent_at
             )
             SELECT number, shard FROM returned",
        )
        .bind(numbers)
        .bind(shards)
        .fetch_all(self.pool())
        .await?;
        let marker = |(number, shard): (i64, i32)| {
            Some(Marker { number, shard: u16::try_from(shard).ok()? })
        };
        Ok(known.into_iter().filter_map(marker).collect())
    }

    /// Deletes the markers that came back before `returned_before`: their watermark stands in
    /// `shard_watermark`. And those sent before `sent_before` that have not come back, unless they
    /// are awaited or their shard's watermark is older: the alarm counts from the oldest of these.
    ///
    /// # Errors
    /// When none was deleted.
    pub(crate) async fn prune_markers(
        &self,
        returned_before: UnixMillis,
        sent_before: UnixMillis,
    ) -> Result<u64, sqlx::Error> {
        let deleted = sqlx::query(
            "-- prune_markers
             DELETE FROM confirm_marker AS old
             WHERE returned_at < $1
                OR (returned_at IS NULL AND NOT awaited AND sent_at < $2 AND sent_at < (
                        SELECT sent_at FROM shard_watermark WHERE shard = old.shard
                    ))",
        )
        .bind(Time(returned_before))
        .bind(Time(sent_before))
        .execute(self.pool())
        .await?;
        Ok(deleted.rows_affected())
    }
}

fn stored(shards: &[u16]) -> Vec<i32> {
    shards.iter().copied().map(i32::from).collect()
}

//! Markers through the confirm shards, sent while a round or a sweep needs to know how far confirms are
//! recorded.

use std::time::Duration;

use countersign_amqp::{Outgoing, Properties, PublishOutcome, Publisher};
use countersign_protocol::{Marker, UnixMillis, marker, topology};
use countersign_retry::Retry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::ledger::{Ledger, ShardMarkers};

/// A round or a sweep says here from which moment on it needs a marker. A clone says it to the same
/// [`Markers`].
#[derive(Clone, Debug)]
pub(crate) struct MarkerNeed(watch::Sender<Option<UnixMillis>>);

/// Sends markers.
#[derive(Debug)]
pub(crate) struct Markers {
    /// The database that notes which markers were sent and came back.
    pub(crate) ledger: Ledger,
    /// Sends the markers.
    pub(crate) publisher: Publisher,
    /// From which moment on a marker is needed, if one is.
    pub(crate) needed: watch::Receiver<Option<UnixMillis>>,
    /// Where the need is taken back when it is of the future.
    pub(crate) need: MarkerNeed,
}

/// A marker that has not come back for so long is followed by another: an operator may have purged its
/// queue. Where confirms have piled up the marker is only late, and counts when it comes.
const FOLLOWED_AFTER: Duration = Duration::from_secs(10);

/// How often this replica looks whether the markers are back, while one is needed. A marker comes back
/// within milliseconds, and the look is one read of a small table.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// When no marker has come back for so long, an operator should know: longer than a restart of the broker
/// or of all replicas takes.
const ALARM_AFTER: Duration = Duration::from_secs(5 * 60);

/// How often this replica looks whether the database's clock was set back behind the last need: until it has seen
/// that, it would take every need for one that is satisfied.
const CLOCK_EVERY: Duration = Duration::from_secs(5);

/// What a look at the markers came to.
enum Looked {
    /// A marker sent after this moment has come back through every shard.
    Back(UnixMillis),
    /// Some shards lack one.
    Lacking,
    /// The need lies after this, the database's present: its clock was set back. What needs a marker says so again.
    AheadOf(UnixMillis),
}

impl MarkerNeed {
    /// No marker is needed yet.
    #[must_use]
    pub(crate) fn none() -> (Self, watch::Receiver<Option<UnixMillis>>) {
        let (needed, seen) = watch::channel(None);
        (Self(needed), seen)
    }

    /// Asks for a marker sent after this moment on the database's clock.
    pub(crate) fn after(&self, moment: UnixMillis) {
        self.0.send_if_modified(|needed| {
            let further = needed.is_none_or(|needed| needed < moment);
            if further {
                *needed = Some(moment);
            }
            further
        });
    }
}

impl Markers {
    /// Sends markers when they are needed, until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut retry = Retry::new("send markers through the confirm shards");
        let mut alarm = Alarm::default();
        let mut satisfied = None;
        loop {
            let further = self.needed.wait_for(|needed| *needed > satisfied);
            let further = async { further.await.map(|needed| needed.unwrap_or(UnixMillis::EPOCH)) };
            let further = tokio::time::timeout(CLOCK_EVERY, further);
            let further = shutdown.run_until_cancelled(further).await;
            let looked = match further {
                Some(Ok(Ok(needed))) => self.look(needed, &mut alarm).await,
                // None is needed: this replica only looks whether the last need is still of the past.
                Some(Err(_)) => match self.ledger.now().await {
                    Ok(now) if satisfied.is_some_and(|at| at > now) => Ok(Looked::AheadOf(now)),
                    Ok(_) => continue,
                    Err(error) => Err(error.into()),
                },
                // This replica stops, or no part of it is left that could need a marker.
                Some(Ok(Err(_))) | None => return,
            };
            match looked {
                Ok(Looked::Back(needed)) => satisfied = Some(needed),
                Ok(Looked::Lacking) => {}
                Ok(Looked::AheadOf(now)) => {
                    self.need.0.send_replace(Some(now));
                    satisfied = None;
                }
                Err(error) => {
                    if retry.wait(&error, &shutdown).await.is_err() {
                        return;
                    }
                    continue;
                }
            }
            retry.worked();
            if shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// Whether a marker sent after this moment has come back through every shard. Sends a marker
    /// through each shard that lacks one and has none on its way.
    async fn look(&self, needed: UnixMillis, alarm: &mut Alarm) -> Result<Looked, NotSent> {
        let (markers, now) = self.ledger.markers().await?;
        if needed > now {
            return Ok(Looked::AheadOf(now));
        }
        alarm.look(&markers, now);
        let lacking: Vec<u16> = markers
            .iter()
            .filter(|shard| shard.watermark.is_none_or(|watermark| watermark <= needed))
            .map(|shard| shard.shard)
            .collect();
        if lacking.is_empty() {
            return Ok(Looked::Back(needed));
        }
        let made = self.ledger.make_markers(&lacking, FOLLOWED_AFTER).await?;
        for marker in made {
            if let Err(not_sent) = self.send(marker).await {
                self.ledger.give_marker_up(marker).await?;
                return Err(not_sent);
            }
            debug!(shard = marker.shard, number = marker.number, "marker sent");
        }
        Ok(Looked::Lacking)
    }

    async fn send(&self, marker: Marker) -> Result<(), NotSent> {
        let message = Outgoing {
            exchange: topology::CONFIRM.to_owned(),
            key: marker.shard.to_string(),
            properties: Properties {
                kind: Some(marker::KIND.to_owned()),
                content_type: Some("application/json".to_owned()),
                ..Properties::default()
            },
            body: marker.encode().into(),
        };
        let pending =
            self.publisher.publish(message).map_err(|why| NotSent::Broker(why.to_string()))?;
        match pending.await {
            PublishOutcome::Routed => Ok(()),
            PublishOutcome::Unroutable { why } => {
                Err(NotSent::Broker(format!("unroutable: {why}")))
            }
            PublishOutcome::Refused => Err(NotSent::Broker("refused by the broker".to_owned())),
            // The broker may have the marker, and it may come back.
            PublishOutcome::Unknown { why } => Err(NotSent::Broker(why)),
        }
    }
}

/// Why a marker was not sent.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("{0}")]
    Ledger(#[from] sqlx::Error),
    #[error("the broker has not taken it: {0}")]
    Broker(String),
}

/// Logs one line when markers do not come back, and one when they do again.
#[derive(Debug, Default)]
struct Alarm {
    raised: bool,
}

impl Alarm {
    fn look(&mut self, markers: &[ShardMarkers], now: UnixMillis) {
        let missed = markers.iter().filter_map(|shard| Some((shard.missed_since?, shard.shard)));
        let longest = missed.min().filter(|(since, _)| now.since(*since) >= ALARM_AFTER);
        match (longest, self.raised) {
            (Some((since, shard)), false) => {
                error!(
                    shard,
                    for_s = now.since(since).as_secs(),
                    "no marker comes back through confirm shard {shard}: confirms are not recorded, and nothing is asked for meanwhile; is {} consumed?",
                    topology::confirm_queue(shard)
                );
                self.raised = true;
            }
            (None, true) => {
                info!("markers come back through every confirm shard again");
                self.raised = false;
            }
            (Some(_), true) | (None, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_is_raised_once_and_ends_once() {
        let shard = |missed_since: Option<i64>| ShardMarkers {
            shard: 0,
            watermark: None,
            missed_since: missed_since.map(UnixMillis::from_ms),
        };
        let mut alarm = Alarm::default();
        let raised = [
            (Some(1_000), 300_999),
            (Some(1_000), 301_000),
            (Some(1_000), 999_000),
            (Some(990_000), 999_000),
            (None, 999_000),
        ]
        .map(|(missed_since, now)| {
            alarm.look(&[shard(None), shard(missed_since)], UnixMillis::from_ms(now));
            alarm.raised
        });
        assert_eq!(raised, [false, true, true, false, false]);
    }
}

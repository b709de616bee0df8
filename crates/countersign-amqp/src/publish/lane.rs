//! One task, and the channels that it publishes on, one after the other.

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::time::sleep;
use tracing::debug;

use crate::connection::Connection;
use crate::connection::epoch::{self, Epoch};
use crate::connection::link::LinkState;
use crate::error::{Error, within};
use crate::publish::flight::Flight;
use crate::publish::message::Prepared;
use crate::publish::outcome::PublishOutcome;
use crate::publish::waiting::{Batch, Limits, Waiting};

/// How long the broker may take to turn confirms on.
const CONFIRM_SELECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One task, and the one channel at a time that nobody else publishes on.
pub(crate) struct Lane {
    pub(crate) connection: Connection,
    pub(crate) waiting: Arc<Waiting<Prepared>>,
    pub(crate) most: Limits,
    pub(crate) confirm_timeout: Duration,
}

/// Why a lane stopped publishing on a channel or in an epoch.
enum LaneStop {
    EpochEnded,
    Drained,
}

/// What a flight left behind.
enum Landed {
    /// The channel can take the next flight.
    ChannelOpen,
    /// The broker has closed the channel, and the connection lives.
    ChannelClosed(Error),
}

impl Lane {
    pub(crate) async fn run(self) {
        let mut epochs = self.connection.epochs();
        loop {
            let epoch = tokio::select! {
                () = self.waiting.finished() => return,
                epoch = epoch::next(&mut epochs) => epoch,
            };
            let Some(epoch) = epoch else { return };
            match self.publish_in(&epoch).await {
                Ok(LaneStop::Drained) => return,
                Ok(LaneStop::EpochEnded) => {}
                Err(error) => epoch.fail(&error),
            }
        }
    }

    /// Publishes until the epoch ends. An error says that the connection itself is of no use.
    async fn publish_in(&self, epoch: &Epoch) -> Result<LaneStop, Error> {
        loop {
            // The client never uses the number of a channel again that the broker has closed. After
            // some 2,000 of them no channel opens any more, and the next epoch has new numbers.
            let channel = epoch.channel().await?;
            let confirming = channel.confirm_select(ConfirmSelectOptions::default());
            within(CONFIRM_SELECT_TIMEOUT, "turning confirms on", confirming).await?;
            loop {
                let batch = tokio::select! {
                    biased;
                    () = epoch.ended() => return Ok(LaneStop::EpochEnded),
                    batch = self.waiting.take(self.most) => batch,
                };
                let Some(batch) = batch else { return Ok(LaneStop::Drained) };
                match self.publish_batch(epoch, &channel, batch).await? {
                    Landed::ChannelOpen => {}
                    Landed::ChannelClosed(why) => {
                        debug!(%why, "the broker closed a channel; the publisher opens another");
                        break;
                    }
                }
            }
        }
    }

    async fn publish_batch(
        &self,
        epoch: &Epoch,
        channel: &Channel,
        batch: Batch<Prepared>,
    ) -> Result<Landed, Error> {
        let Batch { items, owed } = batch;
        let mut flight = Flight::start(channel, items);
        let landed = self.land(epoch, &mut flight).await;
        flight.collect();
        match landed {
            Some(Ok(())) => {
                owed.settle(flight.outcomes("a message was returned that was not among them"));
                Ok(Landed::ChannelOpen)
            }
            Some(Err(error)) => {
                let is_channels = epoch.link().status().connected() && !epoch.is_ended();
                if !is_channels || channel.status().connected() {
                    owed.settle(flight.outcomes(&error.to_string()));
                    return Err(error);
                }
                let error = flight.failure().unwrap_or(error);
                match error.refusal() {
                    // Only a message that was alone on the channel is surely the one that the
                    // broker means: closing, the broker drops confirms that it owes.
                    Some(why) if flight.is_of_one() => {
                        owed.settle_all(PublishOutcome::Unroutable { why });
                    }
                    _ => owed.settle(flight.outcomes(&error.to_string())),
                }
                Ok(Landed::ChannelClosed(error))
            }
            None => {
                let (missing, of) = flight.missing();
                let late = Error::Unconfirmed { missing, of, after: self.confirm_timeout };
                owed.settle(flight.outcomes(&late.to_string()));
                self.sit_out(epoch, &mut flight, late).await.map(|()| Landed::ChannelOpen)
            }
        }
    }

    /// Waits for the confirms; `None` when the confirm timeout is over.
    async fn land(&self, epoch: &Epoch, flight: &mut Flight<'_>) -> Option<Result<(), Error>> {
        tokio::select! {
            biased;
            landed = flight.land() => Some(landed),
            () = epoch.ended() => Some(Err(Error::EpochEnded { why: epoch.why() })),
            () = sleep(self.confirm_timeout) => None,
        }
    }

    /// Waits with a batch whose outcomes are given, for as long as the broker blocks: a new
    /// connection would be blocked just as well, as soon as it publishes.
    async fn sit_out(
        &self,
        epoch: &Epoch,
        flight: &mut Flight<'_>,
        late: Error,
    ) -> Result<(), Error> {
        let mut link = self.connection.state();
        while matches!(*link.borrow_and_update(), LinkState::Blocked { .. }) {
            tokio::select! {
                biased;
                landed = flight.land() => return landed,
                () = epoch.ended() => return Err(Error::EpochEnded { why: epoch.why() }),
                changed = link.changed() => {
                    if changed.is_ok() && matches!(*link.borrow(), LinkState::Up) {
                        return self.land(epoch, flight).await.unwrap_or(Err(late));
                    }
                }
            }
        }
        Err(late)
    }
}

//! One task, and the channels that it publishes on, one after the other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, warn};

use crate::connection::Connection;
use crate::connection::epoch::{self, Epoch};
use crate::connection::link::LinkState;
use crate::error::{Error, within};
use crate::publish::flight::Flight;
use crate::publish::message::Prepared;
use crate::publish::outcome::PublishOutcome;
use crate::publish::returns::Label;
use crate::publish::standing::{Admission, Standings, lock};
use crate::publish::waiting::{Batch, Limits, Waiting, Way};

/// How long the broker may take to turn confirms on.
const CONFIRM_SELECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One task, and the one channel at a time that nobody else publishes on.
pub(crate) struct Lane {
    pub(crate) connection: Connection,
    pub(crate) waiting: Arc<Waiting<Prepared>>,
    pub(crate) standings: Arc<Mutex<Standings>>,
    /// Which messages this lane publishes: many at once, or each alone.
    pub(crate) way: Way,
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
        let _close = CloseAtPanic(Arc::clone(&self.waiting));
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
                    batch = self.waiting.take(self.way, self.most) => batch,
                };
                let Some(batch) = batch else { return Ok(LaneStop::Drained) };
                let Some(batch) = self.sift(batch) else { continue };
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

    /// Keeps the messages that still are to leave this way. What the publisher knows of an exchange
    /// may have changed since it took them.
    fn sift(&self, mut batch: Batch<Prepared>) -> Option<Batch<Prepared>> {
        let now = Instant::now();
        let others = {
            let standings = lock(&self.standings);
            let this_way = Admission::Admitted(self.way);
            if self.way == Way::Alone
                && let [message] = &batch.items[..]
                && let Admission::Refused { why } = standings.admit(message, now)
            {
                drop(standings);
                batch.owed.settle_all(PublishOutcome::Unroutable { why });
                return None;
            }
            // A message that is refused now leaves by the other way, which says so.
            batch.split_off(|message| standings.admit(message, now) == this_way)
        };
        if let Some(others) = others {
            let link = self.connection.state();
            self.waiting.change_way(others, || link.borrow().away());
        }
        (!batch.items.is_empty()).then_some(batch)
    }

    async fn publish_batch(
        &self,
        epoch: &Epoch,
        channel: &Channel,
        batch: Batch<Prepared>,
    ) -> Result<Landed, Error> {
        let Batch { items, owed } = batch;
        let bytes = items.iter().map(|message| message.body.len()).max().unwrap_or_default();
        let mut flight = Flight::start(channel, items);
        let landed = self.land(epoch, &mut flight).await;
        flight.collect();
        match landed {
            Some(Ok(())) => {
                if let Some(Label { exchange, key, .. }) = flight.only() {
                    lock(&self.standings).proved(exchange.as_str(), key.as_str(), bytes);
                }
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
                owed.settle(self.judge(&flight, bytes, &error));
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

    /// The outcomes of messages whose channel the broker has closed.
    fn judge(&self, flight: &Flight<'_>, bytes: usize, error: &Error) -> Vec<PublishOutcome> {
        if let (Some(Label { exchange, key, .. }), Some((cause, why))) =
            (flight.only(), error.refusal())
        {
            // Only a message that was alone is surely the one that the broker means: closing, the
            // broker drops confirms that it owes to others.
            warn!(%exchange, %key, why, "the broker refuses a message");
            let (exchange, key) = (exchange.as_str(), key.as_str());
            lock(&self.standings).refused(exchange, key, bytes, cause, &why, Instant::now());
            return vec![PublishOutcome::Unroutable { why }];
        }
        let outcomes = flight.outcomes(&error.to_string());
        let mut standings = lock(&self.standings);
        for (label, outcome) in flight.labels().iter().zip(&outcomes) {
            if matches!(outcome, PublishOutcome::Unknown { .. }) {
                standings.doubted(label.exchange.as_str());
            }
        }
        outcomes
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

/// Closes the publisher when a lane panics: its callers hear of it instead of waiting for a task
/// that has ended.
struct CloseAtPanic(Arc<Waiting<Prepared>>);

impl Drop for CloseAtPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!("a task that publishes has panicked: its publisher is closed");
            self.0.close();
            self.0.give_up(|| Some("a task that publishes has panicked".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::error::Cause;
    use crate::publish::message::{Outgoing, Properties, prepare};
    use crate::publish::outcome::NotTaken;

    const PLENTY: Limits = Limits { entries: 10, bytes: 1_000 };

    fn prepared() -> Prepared {
        let (exchange, key) = ("x".to_owned(), "k".to_owned());
        let (properties, body) = (Properties::default(), "{}".into());
        prepare(Outgoing { exchange, key, properties, body }).unwrap()
    }

    /// A lane whose connection is away.
    fn lane(way: Way, waiting: &Arc<Waiting<Prepared>>) -> Lane {
        Lane {
            connection: Connection::start(
                "amqp://127.0.0.1:1".parse().unwrap(),
                "none",
                countersign_protocol::Topology::default(),
            ),
            waiting: Arc::clone(waiting),
            standings: Arc::default(),
            way,
            most: PLENTY,
            confirm_timeout: Duration::from_secs(1),
        }
    }

    #[tokio::test]
    async fn messages_leave_together_only_while_their_exchange_has_proved_itself() {
        let waiting = Waiting::new(PLENTY);
        let lane = lane(Way::Together, &waiting);
        lock(&lane.standings).proved("x", "k", 2);
        let pending = waiting.push(Way::Together, prepared(), 2, || None).unwrap();
        let batch = waiting.take(Way::Together, PLENTY).await.unwrap();
        let batch = lane.sift(batch).expect("the exchange has proved itself");
        lock(&lane.standings).doubted("x");
        assert!(lane.sift(batch).is_none(), "the message is to leave alone");
        // The connection is away, so the message does not wait for it.
        assert!(matches!(pending.now_or_never(), Some(PublishOutcome::Unknown { .. })));
    }

    #[tokio::test]
    async fn a_message_whose_destination_was_refused_meanwhile_is_not_sent() {
        let waiting = Waiting::new(PLENTY);
        let lane = lane(Way::Alone, &waiting);
        let pending = waiting.push(Way::Alone, prepared(), 2, || None).unwrap();
        let batch = waiting.take(Way::Alone, PLENTY).await.unwrap();
        let batch = lane.sift(batch).expect("nothing is known of the exchange");
        lock(&lane.standings).refused("x", "k", 2, Cause::NoExchange, "404", Instant::now());
        assert!(lane.sift(batch).is_none());
        let refused = PublishOutcome::Unroutable { why: "404".to_owned() };
        assert_eq!(pending.now_or_never(), Some(refused));
    }

    #[tokio::test]
    async fn a_lane_that_panics_closes_its_publisher_and_every_caller_hears_of_it() {
        let waiting = Waiting::new(PLENTY);
        let first = waiting.push(Way::Together, prepared(), 2, || None).unwrap();
        let held = waiting.take(Way::Together, PLENTY).await.unwrap();
        let second = waiting.push(Way::Together, prepared(), 2, || None).unwrap();
        let lane = Arc::clone(&waiting);
        let panicked = tokio::spawn(async move {
            let (_close, _held) = (CloseAtPanic(lane), held);
            panic!("in a test");
        });
        assert!(panicked.await.unwrap_err().is_panic());
        for pending in [first, second] {
            let outcome = pending.now_or_never();
            assert!(matches!(outcome, Some(PublishOutcome::Unknown { .. })), "{outcome:?}");
        }
        let closed = waiting.push(Way::Together, prepared(), 2, || None).unwrap_err();
        assert_eq!(closed, NotTaken::Closed);
        assert!(waiting.finished().now_or_never().is_some());
    }
}

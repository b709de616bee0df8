//! The supervisor keeps a connection up: it builds an epoch, watches it, and builds the next when
//! it ends.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use countersign_protocol::Topology;
use countersign_retry::{Backoff, LogLimit};
use futures_util::{Stream, StreamExt, poll};
use lapin::Event;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::connection::address::Address;
use crate::connection::declare::declare;
use crate::connection::epoch::Epoch;
use crate::connection::link::LinkState;
use crate::connection::transport::{self, Hangup};
use crate::error::{Error, within};

/// How long the broker may take to declare the whole topology. A cluster that is just starting
/// takes seconds for each quorum queue.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the broker may take to answer a close. Two seconds leave most of a drain to the work in
/// hand.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the supervisor asks the client whether the connection lives. The client reports nearly
/// every end of a connection by itself; this look finds the others.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(5);
/// An epoch that lived this long was a success: the pause after its end is the shortest one again.
const STABLE_AFTER: Duration = Duration::from_secs(30);

pub(crate) struct Supervisor {
    pub(crate) address: Address,
    pub(crate) name: String,
    pub(crate) topology: Topology,
    pub(crate) state: watch::Sender<LinkState>,
    pub(crate) epochs: watch::Sender<Option<Arc<Epoch>>>,
    pub(crate) closing: CancellationToken,
}

type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

impl Supervisor {
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new();
        let limit = LogLimit::new();
        while !self.closing.is_cancelled() {
            let built = tokio::select! {
                biased;
                () = self.closing.cancelled() => break,
                built = self.build() => built,
            };
            let why = match built {
                Ok((epoch, events, hangup)) => {
                    info!(broker = %self.address, connection = self.name, "connected");
                    limit.recovered();
                    let since = Instant::now();
                    let why = self.serve(&epoch, events).await;
                    self.begin_again(&why);
                    part(&epoch, hangup, &why).await;
                    if since.elapsed() >= STABLE_AFTER {
                        backoff.reset();
                    }
                    why
                }
                Err(error) => error.to_string(),
            };
            if self.closing.is_cancelled() {
                break;
            }
            if limit.admits(&why) {
                warn!(
                    broker = %self.address, connection = self.name, why,
                    "not connected to the broker; trying again and again"
                );
            }
            self.begin_again(&why);
            let _ = timeout(backoff.next_pause(), self.closing.cancelled()).await;
        }
        info!(broker = %self.address, connection = self.name, "closed");
        self.state.send_replace(LinkState::Closed);
    }

    /// Connects and declares. When the future is dropped on the way, its connection is cut.
    async fn build(&self) -> Result<(Arc<Epoch>, Events, Hangup), Error> {
        let hangup = Hangup::default();
        let link = transport::connect(&self.address, &self.name, &hangup).await?;
        let events: Events = Box::pin(link.events_listener());
        let epoch = Arc::new(Epoch::new(link));
        let declared = within(DECLARE_TIMEOUT, "declaring the topology", self.declare(&epoch));
        match declared.await {
            Ok(()) => Ok((epoch, events, hangup)),
            Err(error) => {
                part(&epoch, hangup, "its topology was refused").await;
                Err(error)
            }
        }
    }

    async fn declare(&self, epoch: &Epoch) -> Result<(), Error> {
        if self.topology == Topology::default() {
            return Ok(());
        }
        declare(epoch, &self.topology).await
    }

    /// Offers the epoch to publishers, batchers and consumers until it ends.
    async fn serve(&self, epoch: &Arc<Epoch>, mut events: Events) -> String {
        // The epoch comes first, so that a task that sees `Up` finds it.
        self.epochs.send_replace(Some(Arc::clone(epoch)));
        self.state.send_replace(LinkState::Up);
        let mut liveness = interval(LIVENESS_INTERVAL);
        liveness.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return "closed".to_owned(),
                () = epoch.ended() => return epoch.why(),
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(why)) => {
                        warn!(
                            broker = %self.address, connection = self.name, why,
                            "the broker takes no messages for now"
                        );
                        self.state.send_replace(LinkState::Blocked { why });
                    }
                    Some(Event::ConnectionUnblocked) => {
                        info!(
                            broker = %self.address, connection = self.name,
                            "the broker takes messages again"
                        );
                        self.state.send_replace(LinkState::Up);
                    }
                    // The client reports the end of a channel the same way (lapin 4.12,
                    // `channel.rs`). It costs its user a channel, and nobody else anything. The
                    // error of a connection comes after the connection has left this state.
                    Some(Event::Error(error)) if epoch.link().status().connected() => {
                        debug!(connection = self.name, %error, "a channel was closed");
                    }
                    Some(Event::Error(error)) => return error.to_string(),
                    Some(_) => {}
                    None => return "the client stopped".to_owned(),
                },
                _ = liveness.tick() => {
                    if !epoch.link().status().connected() {
                        return "the connection was closed".to_owned();
                    }
                }
            }
        }
    }

    fn begin_again(&self, why: &str) {
        self.epochs.send_replace(None);
        if !self.closing.is_cancelled() {
            let connecting = LinkState::Connecting { why: why.to_owned() };
            self.state.send_if_modified(|state| {
                let changed = *state != connecting;
                *state = connecting;
                changed
            });
        }
    }
}

/// Ends an epoch, with a close handshake if the broker still answers.
async fn part(epoch: &Epoch, hangup: Hangup, why: &str) {
    let goodbye = epoch.link().close(lapin::protocol::constants::REPLY_SUCCESS, "closed".into());
    let mut goodbye = pin!(timeout(CLOSE_TIMEOUT, goodbye));
    // The close is on the wire before any consumer is dropped. A dropped consumer is cancelled, and
    // after a cancel the broker serves the next consumer ahead of the deliveries that the first
    // still held.
    let said = poll!(&mut goodbye).is_ready();
    epoch.fail(why);
    if !said {
        let _ = goodbye.await;
    }
    drop(hangup);
}

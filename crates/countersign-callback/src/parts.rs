//! What the workers share, and each worker made of it.

use std::sync::Arc;

use countersign_amqp::{Connection, Publisher, Subscription};
use countersign_protocol::grpc::callback_server::CallbackServer;
use countersign_protocol::{Topology, UnixMillis, topology};
use tokio::sync::{Notify, watch};

use crate::api::Admin;
use crate::api::sweep::Sweeps;
use crate::heal::jobs::Jobs;
use crate::heal::recent_checks::{Keeper, RecentChecks};
use crate::heal::round::Rounds;
use crate::heal::upstreams::Upstreams;
use crate::horizon::Horizons;
use crate::intake::all_confirms::AllConfirms;
use crate::intake::checks::Checks;
use crate::intake::confirms::Confirms;
use crate::intake::quarantine::Quarantine;
use crate::intake::rolled_back::Notices;
use crate::intake::{Intake, PREFETCH, Recorder};
use crate::ledger::Ledger;
use crate::settings::Config;
use crate::watch::depths::{Depths, Held, WantedDepths};
use crate::watch::markers::{MarkerNeed, Markers};

/// What the workers share.
#[derive(Debug)]
pub(crate) struct Parts {
    config: Config,
    ledger: Ledger,
    horizons: Horizons,
    upstreams: Upstreams,
    quarantine: Quarantine,
    publisher: Publisher,
    recent_checks: RecentChecks,
    /// Wakes the rounds when a row may be due.
    wake: Arc<Notify>,
    job_created: Arc<Notify>,
    marker_need: MarkerNeed,
    wanted_depths: WantedDepths,
}

/// The consumer priority of a shard is random up to this: of several replicas the one with the highest
/// has the shard (RabbitMQ 4.0 and later), so shards spread. Before 4.0 one replica has them all.
const MOST_PRIORITY: i32 = 1_000;

impl Parts {
    /// The parts of a service with these settings, over this ledger and publisher; and where the markers
    /// are asked for.
    ///
    /// To be called inside a runtime.
    #[must_use]
    pub(crate) fn new(
        config: Config,
        ledger: Ledger,
        horizons: Horizons,
        publisher: Publisher,
    ) -> (Self, watch::Receiver<Option<UnixMillis>>) {
        let (marker_need, markers_needed) = MarkerNeed::none();
        let parts = Self {
            upstreams: Upstreams::new(&config.upstreams, config.timing.call, config.token.clone()),
            quarantine: Quarantine::new(publisher.clone()),
            recent_checks: RecentChecks::default(),
            wake: Arc::default(),
            job_created: Arc::default(),
            wanted_depths: WantedDepths::default(),
            config,
            ledger,
            horizons,
            publisher,
            marker_need,
        };
        (parts, markers_needed)
    }

    /// The ledger.
    pub(crate) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// The publisher behind quarantine and markers.
    pub(crate) fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// The subscription to a confirm shard.
    pub(crate) fn shard(&self, shard: u16) -> Subscription {
        let is_one_of_many = self.config.confirm_shards > 1 || shard > 0;
        let priority = is_one_of_many.then(|| fastrand::i32(0..=MOST_PRIORITY));
        let queue = topology::confirm_queue(shard);
        Subscription { queue, prefetch: PREFETCH, priority }
    }

    /// The subscription to a queue.
    pub(crate) fn queue(queue: &str) -> Subscription {
        Subscription { queue: queue.to_owned(), prefetch: PREFETCH, priority: None }
    }

    /// Records the confirms of every shard that is in use.
    pub(crate) fn all_confirms(self: &Arc<Self>, consuming: Connection) -> AllConfirms {
        AllConfirms { parts: Arc::clone(self), consuming, at_first: self.config.confirm_shards }
    }

    /// A connection that declares this many confirm shards, to consume those that another replica has added.
    pub(crate) fn consuming_added(&self, shards: u16) -> Connection {
        let topology = Topology::callback(&self.config.tiers, shards);
        let name = "countersign-callback consuming added shards";
        let connection = Connection::start(self.config.amqp.clone(), name, topology);
        tokio::spawn(connection.feed(self.ledger.pulse()));
        connection
    }

    /// Records the confirms of a shard.
    pub(crate) fn confirms(&self, shard: u16) -> Intake<Confirms> {
        let confirms = Confirms { ledger: self.ledger.clone(), shard };
        self.intake(confirms, topology::confirm_queue(shard))
    }

    /// Looks checks up.
    pub(crate) fn checks(&self) -> Intake<Checks> {
        let checks = Checks {
            ledger: self.ledger.clone(),
            wake: Arc::clone(&self.wake),
            recent_checks: self.recent_checks.clone(),
            policy: self.config.policy,
        };
        self.intake(checks, topology::CHECK_DUE.to_owned())
    }

    /// Records rolled-back notices.
    pub(crate) fn notices(&self) -> Intake<Notices> {
        let notices = Notices { ledger: self.ledger.clone() };
        self.intake(notices, topology::ROLLED_BACK.to_owned())
    }

    fn intake<R: Recorder>(&self, recorder: R, queue: String) -> Intake<R> {
        Intake {
            recorder,
            queue,
            quarantine: self.quarantine.clone(),
            horizons: self.horizons.clone(),
            ledger: self.ledger.clone(),
        }
    }

    /// Writes down what becomes of checks.
    pub(crate) fn recent_checks(&self) -> Keeper {
        Keeper {
            recent_checks: self.recent_checks.clone(),
            ledger: self.ledger.clone(),
            pacing: self.config.pacing,
        }
    }

    /// Sends markers.
    pub(crate) fn markers(&self, needed: watch::Receiver<Option<UnixMillis>>) -> Markers {
        Markers {
            ledger: self.ledger.clone(),
            publisher: self.publisher.clone(),
            needed,
            need: self.marker_need.clone(),
        }
    }

    /// Looks into queues on this connection.
    pub(crate) fn depths(&self, connection: Connection) -> Depths {
        let vhost = self.config.amqp.vhost();
        let management = self.config.management.clone();
        Depths {
            ledger: self.ledger.clone(),
            connection,
            management: management.map(|url| Held::new(url, vhost)),
            wanted: self.wanted_depths.clone(),
        }
    }

    /// Heals.
    pub(crate) fn rounds(&self) -> Rounds {
        Rounds {
            ledger: self.ledger.clone(),
            upstreams: self.upstreams.clone(),
            policy: self.config.policy,
            pacing: self.config.pacing,
            timing: self.config.timing,
            markers: self.marker_need.clone(),
            depths: self.wanted_depths.clone(),
            wake: Arc::clone(&self.wake),
        }
    }

    /// Works on jobs.
    pub(crate) fn jobs(&self) -> Jobs {
        Jobs {
            ledger: self.ledger.clone(),
            horizons: self.horizons.clone(),
            park_after: self.config.policy.park_after,
            created: Arc::clone(&self.job_created),
            wake: Arc::clone(&self.wake),
        }
    }

    /// `countersign.v1.Callback`.
    pub(crate) fn admin(&self) -> CallbackServer<Admin> {
        let sweeps = Sweeps {
            ledger: self.ledger.clone(),
            horizons: self.horizons.clone(),
            markers: self.marker_need.clone(),
            wake: Arc::clone(&self.wake),
            policy: self.config.policy,
        };
        Admin::server(
            self.ledger.clone(),
            self.upstreams.clone(),
            self.config.pacing,
            sweeps,
            self.config.token.clone(),
            Arc::clone(&self.job_created),
            self.config.shown(),
        )
    }
}

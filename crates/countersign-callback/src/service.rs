//! The service as a whole: started in the order of what needs what, and stopped.

use std::sync::Arc;
use std::time::Duration;

use countersign_amqp::{Connection, Consumer, Publisher, PublisherSettings, Subscription};
use countersign_postgres::{PoolSettings, connect, migrate};
use countersign_protocol::grpc::GetSettingsResponse;
use countersign_protocol::grpc::callback_server::{Callback, CallbackServer};
use countersign_protocol::{Token, Topology, topology};
use countersign_retry::Stopped;
use sqlx::migrate::MigrateError;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api::Admin;
use crate::api::sweep::Sweeps;
use crate::heal::jobs::Jobs;
use crate::heal::recent_checks::{self, NotWritten};
use crate::heal::round::Rounds;
use crate::heal::upstreams::Upstreams;
use crate::horizon::Horizons;
use crate::intake::checks::Checks;
use crate::intake::confirms::Confirms;
use crate::intake::quarantine::Quarantine;
use crate::intake::rolled_back::Notices;
use crate::intake::{Intake, Kind, PREFETCH};
use crate::ledger::{Ledger, MIGRATIONS};
use crate::rules::budget::Pacing;
use crate::settings::Config;
use crate::upkeep;
use crate::watch::consumers;
use crate::watch::depths::{Depths, Held, WantedDepths};
use crate::watch::markers::{MarkerNeed, Markers};

/// The running service.
#[derive(Debug)]
pub struct Service {
    ledger: Ledger,
    upstreams: Upstreams,
    pacing: Pacing,
    token: Option<Token>,
    job_created: Arc<Notify>,
    sweeps: Sweeps,
    settings: GetSettingsResponse,
    consuming: Connection,
    publishing: Connection,
    publisher: Publisher,
    tasks: JoinSet<&'static str>,
    shutdown: CancellationToken,
}

/// Why the service does not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A migration fails, or one that is applied is not known here.
    #[error("the ledger's migrations cannot be applied")]
    Migrate(#[from] MigrateError),
    /// It was asked to stop before it had started.
    #[error("stopped while waiting for the database")]
    Stopped,
    /// A part of it ended by itself; it cannot do its work without.
    #[error("{0} ended unexpectedly")]
    Ended(String),
}

const APPLICATION_NAME: &str = "countersign-callback";

/// Connections to the database beyond one for each confirm shard: for checks, judging, writing
/// answers, jobs, upkeep, and a few for whoever asks about messages.
const OTHER_CONNECTIONS: u32 = 11;

/// How long a process that is stuck in the middle of a transaction holds up the others: a row of
/// `upstream_pace` is locked by whoever asks. No transaction here waits for anything but Postgres.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// How much may be on its way to quarantine at once, in bytes.
const QUARANTINE_BYTES: usize = 16 * 1024 * 1024;

/// How long the last of quarantine may take at the end.
const PUBLISHER_CLOSES: Duration = Duration::from_secs(1);

impl Service {
    /// Starts the service: waits for the database, brings it up to date, then takes in confirms and
    /// checks and heals what is overdue until `shutdown`. The broker is waited for in the
    /// background, see [`ready`](Self::ready).
    ///
    /// # Errors
    /// When the database cannot be brought up to date, or `shutdown` comes first.
    ///
    /// # Cancel safety
    /// Can be dropped; nothing has been taken from the broker then that would not go back.
    pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Self, Error> {
        let settings = config.told();
        let mut tasks = JoinSet::new();
        let prepared = prepare(&config, &shutdown, &mut tasks);
        let (ledger, horizons) =
            shutdown.run_until_cancelled(prepared).await.ok_or(Error::Stopped)??;

        let topology = Topology::callback(&config.tiers, config.confirm_shards);
        let consuming = Connection::start(
            config.amqp.clone(),
            "countersign-callback consuming",
            topology.clone(),
        );
        let publishing =
            Connection::start(config.amqp.clone(), "countersign-callback publishing", topology);
        let publisher = Publisher::start(
            &publishing,
            PublisherSettings {
                max_waiting_bytes: QUARANTINE_BYTES,
                channels: 1,
                ..PublisherSettings::default()
            },
        );
        let shards: Vec<u16> = (0..config.confirm_shards).collect();
        let (need, needed) = MarkerNeed::none();
        let mut service = Self {
            ledger: ledger.clone(),
            upstreams: Upstreams::new(&config.upstreams, config.timing.call, config.token.clone()),
            pacing: config.pacing,
            token: config.token.clone(),
            job_created: Arc::default(),
            sweeps: Sweeps {
                ledger: ledger.clone(),
                horizons: horizons.clone(),
                shards: shards.clone(),
                markers: need.clone(),
            },
            settings,
            consuming,
            publishing,
            publisher,
            tasks,
            shutdown,
        };

        let wake = Arc::new(Notify::new());
        for shard in 0..config.confirm_shards {
            let priority = (config.confirm_shards > 1).then(|| fastrand::i32(0..=MOST_PRIORITY));
            let queue = topology::confirm_queue(shard);
            let confirms = Confirms { ledger: ledger.clone(), shard };
            service.take_in(confirms, queue, priority, &horizons);
        }
        let not_written = NotWritten::default();
        let keeping = recent_checks::keep(
            not_written.clone(),
            ledger.clone(),
            config.pacing,
            service.shutdown.clone(),
        );
        service.tasks.spawn(async move {
            keeping.await;
            "counting"
        });
        let checks = Checks { ledger: ledger.clone(), wake: Arc::clone(&wake), not_written };
        service.take_in(checks, topology::CHECK_DUE.to_owned(), None, &horizons);
        let jobs = Jobs {
            ledger: ledger.clone(),
            created: Arc::clone(&service.job_created),
            wake: Arc::clone(&wake),
        };
        let notices = Notices { ledger: ledger.clone() };
        service.take_in(notices, topology::ROLLED_BACK.to_owned(), None, &horizons);
        let markers = Markers {
            ledger: ledger.clone(),
            publisher: service.publisher.clone(),
            shards: shards.clone(),
            needed,
        };
        let stop = service.shutdown.clone();
        service.tasks.spawn(async move {
            markers.run(stop).await;
            "sending markers"
        });
        let looking = Connection::start(
            config.amqp.clone(),
            "countersign-callback looking into queues",
            Topology::default(),
        );
        let wanted = WantedDepths::default();
        let vhost = config.amqp.vhost();
        let depths = Depths {
            ledger: ledger.clone(),
            shards: shards.clone(),
            connection: looking,
            management: config.management.map(|url| Held::new(url, vhost)),
            wanted: wanted.clone(),
        };
        let stop = service.shutdown.clone();
        service.tasks.spawn(async move {
            depths.run(stop).await;
            "looking into queues"
        });
        let watching = consumers::watch(ledger.clone(), service.shutdown.clone());
        service.tasks.spawn(async move {
            watching.await;
            "watching consumers"
        });
        let rounds = Rounds {
            ledger,
            upstreams: service.upstreams.clone(),
            policy: config.policy,
            pacing: config.pacing,
            timing: config.timing,
            shards,
            markers: need,
            depths: wanted,
            wake,
        };
        let stop = service.shutdown.clone();
        service.tasks.spawn(async move {
            rounds.run(stop).await;
            "healing"
        });
        let stop = service.shutdown.clone();
        service.tasks.spawn(async move {
            jobs.run(stop).await;
            "jobs"
        });
        Ok(service)
    }

    /// `countersign.v1.Callback`.
    #[must_use]
    pub fn admin(&self) -> CallbackServer<impl Callback> {
        Admin::server(
            self.ledger.clone(),
            self.upstreams.clone(),
            self.pacing,
            self.sweeps.clone(),
            self.token.clone(),
            Arc::clone(&self.job_created),
            self.settings.clone(),
        )
    }

    /// Returns when the broker is there, with everything declared.
    #[must_use = "it is the wait itself"]
    pub fn ready(&self) -> impl Future<Output = ()> + Send + use<> {
        let (consuming, publishing) = (self.consuming.clone(), self.publishing.clone());
        async move {
            consuming.ready().await;
            publishing.ready().await;
        }
    }

    /// Returns when a part of the service has ended although nobody asked it to.
    pub async fn failed(&mut self) -> Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(_)) if self.shutdown.is_cancelled() => {}
                Some(Ok(part)) => return Error::Ended(part.to_owned()),
                Some(Err(error)) => return Error::Ended(error.to_string()),
                None => std::future::pending().await,
            }
        }
    }

    /// After `shutdown`: waits until the batches in hand are stored and acked and the calls under
    /// way answered, then hangs up.
    ///
    /// # Errors
    /// When a part of the service had failed.
    pub async fn finish(mut self) -> Result<(), Error> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                result = Err(Error::Ended(error.to_string()));
            }
        }
        self.publisher.close(PUBLISHER_CLOSES).await;
        self.consuming.close().await;
        self.publishing.close().await;
        self.ledger.pool().close().await;
        info!("everything in hand is done");
        result
    }

    fn take_in<K: Kind>(
        &mut self,
        kind: K,
        queue: String,
        priority: Option<i32>,
        horizons: &Horizons,
    ) {
        let subscription = Subscription { queue: queue.clone(), prefetch: PREFETCH, priority };
        let consumer = Consumer::start(&self.consuming, subscription);
        let intake = Intake {
            kind,
            queue,
            quarantine: Quarantine::new(self.publisher.clone()),
            horizons: horizons.clone(),
            ledger: self.ledger.clone(),
            shutdown: self.shutdown.clone(),
        };
        self.tasks.spawn(async move {
            intake.run(consumer).await;
            "intake"
        });
    }
}

/// Which replica has a shard when there are several: the one with the highest priority, from
/// RabbitMQ 4.0 on. Random, so that shards spread; before 4.0 one replica has them all.
const MOST_PRIORITY: i32 = 1_000;

async fn prepare(
    config: &Config,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<&'static str>,
) -> Result<(Ledger, Horizons), Error> {
    let settings = PoolSettings {
        max_connections: OTHER_CONNECTIONS + u32::from(config.confirm_shards),
        idle_in_transaction_timeout: LONGEST_HOLD,
        ..PoolSettings::new(APPLICATION_NAME)
    };
    let pool = connect(&config.database, settings).await;
    migrate(&pool, &MIGRATIONS).await?;
    let ledger = Ledger::new(pool, config.retention);
    let horizons = upkeep::start(&ledger, config.retention, shutdown, tasks)
        .await
        .map_err(|Stopped| Error::Stopped)?;
    Ok((ledger, horizons))
}

//! The service as a whole: started in the order of what needs what, and stopped.

use std::sync::Arc;
use std::time::Duration;

use countersign_amqp::{Connection, Publisher, PublisherSettings};
use countersign_postgres::{PoolSettings, connect, migrate};
use countersign_protocol::grpc::callback_server::{Callback, CallbackServer};
use countersign_protocol::{Topology, topology};
use countersign_retry::{Pulse, Retry, Stopped};
use sqlx::migrate::MigrateError;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::Admin;
use crate::horizon::Horizons;
use crate::ledger::{Ledger, migrations};
use crate::parts::Parts;
use crate::settings::Config;
use crate::upkeep;
use crate::watch::consumers;
use crate::workers::Workers;

/// The running service.
#[derive(Debug)]
pub struct Service {
    ledger: Ledger,
    admin: CallbackServer<Admin>,
    consuming: Connection,
    publishing: Connection,
    publisher: Publisher,
    workers: Workers,
}

/// Why the service does not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A migration fails, or the database has one that this version does not know.
    #[error("the ledger's migrations cannot be applied")]
    Migrate(#[from] MigrateError),
    /// The service was told to stop before it had started.
    #[error("stopped while waiting for the database")]
    Stopped,
    /// A worker ended by itself; the service cannot do its work without it.
    #[error("{0} ended unexpectedly")]
    Ended(String),
}

const APPLICATION_NAME: &str = "countersign-callback";

/// Connections to the database beyond one for each confirm shard: for checks, rolled-back notices,
/// rounds, answers, jobs, upkeep, markers, depths, recent checks, and a few for sweeps and new jobs.
/// People's queries have three more of their own.
const OTHER_CONNECTIONS: u32 = 11;

/// How long a process that is stuck in the middle of a transaction holds up the other replicas, which
/// wait for the rows of `upstream_pace` that it has locked. No transaction here waits for anything but
/// Postgres.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// How much may be on its way to quarantine at once, in bytes.
const QUARANTINE_BYTES: usize = 16 * 1024 * 1024;

/// How long the last messages to quarantine may take at the end.
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
    pub async fn start(mut config: Config, shutdown: CancellationToken) -> Result<Self, Error> {
        let mut workers = Workers::new(shutdown.clone());
        let prepared = prepare(&mut config, &shutdown, &mut workers);
        let (ledger, horizons) =
            shutdown.run_until_cancelled(prepared).await.ok_or(Error::Stopped)??;
        let topology = Topology::callback(&config.tiers, config.confirm_shards);
        let connection = |name, topology| Connection::start(config.amqp.clone(), name, topology);
        let consuming = connection("countersign-callback consuming", topology.clone());
        let publishing = connection("countersign-callback publishing", topology);
        let looking = connection("countersign-callback looking into queues", Topology::default());
        for connection in [&consuming, &publishing] {
            tokio::spawn(connection.feed(ledger.pulse()));
        }
        let publisher = Publisher::start(
            &publishing,
            PublisherSettings {
                max_waiting_bytes: QUARANTINE_BYTES,
                channels: 1,
                ..PublisherSettings::default()
            },
        );

        let (parts, markers_needed) = Parts::new(config, ledger, horizons, publisher);
        let parts = Arc::new(parts);
        let confirms = parts.all_confirms(consuming.clone());
        workers.spawn("recording confirms", |stop| confirms.run(stop));
        let checks = parts.checks();
        let queue = Parts::queue(topology::CHECK_DUE);
        workers.spawn("looking checks up", |stop| checks.run(consuming.clone(), queue, stop));
        let notices = parts.notices();
        let queue = Parts::queue(topology::ROLLED_BACK);
        workers.spawn("recording rolled-back notices", |stop| {
            notices.run(consuming.clone(), queue, stop)
        });
        workers.spawn("counting recent checks", |stop| parts.recent_checks().run(stop));
        workers.spawn("sending markers", |stop| parts.markers(markers_needed).run(stop));
        workers.spawn("looking into queues", |stop| parts.depths(looking).run(stop));
        workers.spawn("watching consumers", |stop| consumers::watch(parts.ledger(), stop));
        workers.spawn("healing", |stop| parts.rounds().run(stop));
        workers.spawn("working on jobs", |stop| parts.jobs().run(stop));
        Ok(Self {
            ledger: parts.ledger(),
            admin: parts.admin(),
            publisher: parts.publisher(),
            consuming,
            publishing,
            workers,
        })
    }

    /// `countersign.v1.Callback`.
    #[must_use]
    pub fn admin(&self) -> CallbackServer<impl Callback> {
        self.admin.clone()
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

    /// What the service has in hand, for its readiness.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.ledger.pulse().clone()
    }

    /// Returns when a worker of the service has ended although nothing told it to stop.
    pub async fn failed(&mut self) -> Error {
        Error::Ended(self.workers.failed().await)
    }

    /// After `shutdown`: waits until the batches in hand are recorded and acked and the calls under
    /// way answered, then hangs up.
    ///
    /// # Errors
    /// When a worker had failed.
    pub async fn finish(self) -> Result<(), Error> {
        let finished = self.workers.finish().await;
        self.publisher.close(PUBLISHER_CLOSES).await;
        self.consuming.close().await;
        self.publishing.close().await;
        self.ledger.pool().close().await;
        info!("everything in hand is done");
        finished.map_err(|error| Error::Ended(error.to_string()))
    }
}

async fn prepare(
    config: &mut Config,
    shutdown: &CancellationToken,
    workers: &mut Workers,
) -> Result<(Ledger, Horizons), Error> {
    let open = async |config: &Config| {
        let settings = PoolSettings {
            max_connections: OTHER_CONNECTIONS + u32::from(config.confirm_shards),
            idle_in_transaction_timeout: LONGEST_HOLD,
            ..PoolSettings::new(APPLICATION_NAME)
        };
        connect(&config.database, settings).await
    };
    let pool = open(config).await;
    migrate(&pool, migrations()).await?;
    let mut ledger = Ledger::new(pool.into(), config.retention);
    let in_use = shards(&ledger, config.confirm_shards, shutdown).await?;
    if in_use > config.confirm_shards {
        // Each shard needs a connection.
        ledger.pool().close().await;
        config.confirm_shards = in_use;
        ledger = Ledger::new(open(config).await.into(), config.retention);
    }
    let horizons = upkeep::start(&ledger, config, shutdown, workers)
        .await
        .map_err(|Stopped| Error::Stopped)?;
    Ok((ledger, horizons))
}

/// How many confirm shards this replica consumes: as many as it is configured with, and those that a replica was
/// configured with before. A shard that nobody consumes would keep confirms for ever, and their messages would count
/// as missing.
async fn shards(
    ledger: &Ledger,
    configured: u16,
    shutdown: &CancellationToken,
) -> Result<u16, Error> {
    let mut retry = Retry::new("note the confirm shards");
    loop {
        match ledger.confirm_shards(configured).await {
            Ok(shards) => {
                if shards > configured {
                    warn!(
                        shards,
                        configured,
                        "more confirm shards than COUNTERSIGN_CONFIRM_SHARDS were in use: all are consumed, because consumers may still confirm through each"
                    );
                }
                return Ok(shards);
            }
            Err(error) => retry.wait(&error, shutdown).await.map_err(|Stopped| Error::Stopped)?,
        }
    }
}

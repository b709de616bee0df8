//! The callback service on a broker and a database of its own, started anew for each step.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use countersign_testbed::{
    Broker, BrokerSettings, Database, Folder, Launch, Port, Postgres, PostgresSettings, Process,
    Vhost,
};
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use super::upstream::Upstream;
use crate::child::callback_program;
use crate::role::UPSTREAM;
use crate::usage::{SERVICE, Usage};

/// The pause between two looks at the database: short beside a step of seconds, long beside the
/// count of rows that one look costs.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a count may stand still. All look-ups of a step show in one row, the last one's, so the
/// longest step has to fit.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the service runs. Dropping the value ends the servers.
#[derive(Debug)]
pub(super) struct Stage {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    pool: PgPool,
    vhost: Vhost,
    folder: Folder,
    _database: Database,
    _port: Port,
    _postgres: Postgres,
    _broker: Broker,
}

/// The callback service as a process. Dropping the value kills it.
#[derive(Debug)]
pub(super) struct Service {
    process: Process,
    pub(super) started: Instant,
}

impl Stage {
    /// Starts the servers.
    ///
    /// # Errors
    /// If a needed program is not installed or not built. The error says what to do.
    pub(super) async fn prepare(callback: Option<PathBuf>, upstream: &Upstream) -> Result<Self> {
        let program = callback_program(callback)?;
        let (broker, postgres) = tokio::try_join!(
            Broker::start(BrokerSettings { fresh_figures: false, ..BrokerSettings::default() }),
            Postgres::start(PostgresSettings::default())
        )?;
        let vhost = Vhost::create(broker.address()).await?;
        let database = Database::create(postgres.address()).await?;
        let pool = database.pool().await?;
        let port = Port::claim()?;
        let environment = vec![
            ("COUNTERSIGN_AMQP_URL", vhost.url().to_owned()),
            ("COUNTERSIGN_DATABASE_URL", database.url().to_owned()),
            ("COUNTERSIGN_LISTEN", format!("127.0.0.1:{port}")),
            ("COUNTERSIGN_UPSTREAMS", format!("{UPSTREAM}={}", upstream.url())),
            // No consumer runs, so the service has no backlog to wait for.
            ("COUNTERSIGN_BACKLOG_GRACE", "1ms".to_owned()),
            // Two days are fewer partitions to make than the default.
            ("COUNTERSIGN_RETENTION", "2d".to_owned()),
            ("COUNTERSIGN_LOG", "warn".to_owned()),
        ];
        Ok(Self {
            program,
            environment,
            pool,
            vhost,
            folder: Folder::create("bench-ledger")?,
            _database: database,
            _port: port,
            _postgres: postgres,
            _broker: broker,
        })
    }

    pub(super) fn amqp_url(&self) -> &str {
        self.vhost.url()
    }

    /// Starts the service; `settings` as in `COUNTERSIGN_MAX_RESENDS=0`.
    ///
    /// # Errors
    /// If the service cannot be started.
    pub(super) fn start(&self, settings: &[&str]) -> Result<Service> {
        let mut launch = Launch::new(SERVICE, [self.program.display().to_string()]);
        launch.bare = true;
        let settings = settings.iter().filter_map(|setting| setting.split_once('='));
        let own = self.environment.iter().map(|(name, value)| (*name, value.as_str()));
        let launch =
            own.chain(settings).fold(launch, |launch, (name, value)| launch.env(name, value));
        let started = Instant::now();
        Ok(Service { process: Process::start(&self.folder, &launch)?, started })
    }

    /// Makes the service's tables: a first start makes them, and no step is to be timed with that.
    ///
    /// # Errors
    /// If the service does not make them.
    pub(super) async fn make_tables(&self) -> Result<()> {
        const MADE: &str = "SELECT count(to_regclass('overdue_event'))";
        let mut service = self.start(&[])?;
        self.time(&mut service, Instant::now(), MADE, 1).await?;
        Ok(())
    }

    /// Empties the tables of messages.
    pub(super) async fn clear(&self) -> Result<()> {
        sqlx::query("TRUNCATE confirmation, overdue CASCADE").execute(&self.pool).await?;
        Ok(())
    }

    /// Lets the next minutes look as if the upstream's other messages were confirmed: without them
    /// the service takes the missing ones for a storm, and only asks for a few canaries.
    pub(super) async fn calm(&self) -> Result<()> {
        sqlx::query(
            "INSERT INTO upstream_tally (upstream, half_minute, looked_up)
             SELECT $1, half_minute, 1000000000
             FROM generate_series(floor(extract(epoch FROM now()) / 30)::bigint - 1,
                                  floor(extract(epoch FROM now()) / 30)::bigint + 20)
                 AS half (half_minute)
             ON CONFLICT (upstream, half_minute) DO UPDATE SET looked_up = excluded.looked_up",
        )
        .bind(UPSTREAM)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Seconds until `sql` counts `wanted`, since `begun`; when many are wanted, since the last look
    /// that saw none, so that the service's start does not count.
    ///
    /// # Errors
    /// If the service ends, or the count stands still.
    pub(super) async fn time(
        &self,
        service: &mut Service,
        mut begun: Instant,
        sql: &'static str,
        wanted: usize,
    ) -> Result<f64> {
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let looked = Instant::now();
            let count = self.count(sql).await?;
            let now = Instant::now();
            if count >= wanted {
                return Ok((now - begun).as_secs_f64());
            }
            service.check_alive()?;
            if count == 0 && wanted > 1 {
                begun = looked;
            }
            if count != last {
                (last, moved) = (count, now);
            }
            if now - moved > PATIENCE {
                let log = service.process.log_tail(20);
                bail!(
                    "{count} of {wanted} after {PATIENCE:?} without progress: {sql}\nThe callback service's last lines:\n{log}"
                );
            }
            sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn count(&self, sql: &'static str) -> Result<usize> {
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await.context(sql)?;
        Ok(usize::try_from(count)?)
    }
}

impl Service {
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(SERVICE, self.process.id())
    }

    fn check_alive(&mut self) -> Result<()> {
        let ended = self.process.ended();
        ensure!(ended.is_none(), "the callback service ended: {}", self.process.log_tail(20));
        Ok(())
    }
}

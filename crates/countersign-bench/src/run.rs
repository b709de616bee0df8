//! One scheme, once: its processes, on fresh queues and a fresh database.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use countersign_testbed::{
    Broker, BrokerSettings, Database, Folder, Launch, Port, Postgres, PostgresSettings, Process,
    Vhost,
};
use indicatif::ProgressBar;
use sqlx::PgPool;
use tokio::process::Command;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::arguments::Load;
use crate::child::{RoleProcess, callback_program};
use crate::role::UPSTREAM;
use crate::scheme::Scheme;
use crate::usage::{SERVICE, Usage};

/// The benchmark's own broker and database server, and the common arguments of all runs.
#[derive(Debug)]
pub(crate) struct Ground {
    broker: Broker,
    postgres: Postgres,
    folder: Folder,
    callback: PathBuf,
    load: Load,
}

impl Ground {
    /// Starts the servers.
    ///
    /// # Errors
    /// If a needed program is not installed or not built. The error says what to do.
    pub(crate) async fn prepare(load: Load) -> Result<Self> {
        let callback = callback_program(load.callback.clone())?;
        let broker = BrokerSettings { fresh_figures: false, ..BrokerSettings::default() };
        let (broker, postgres) =
            tokio::try_join!(Broker::start(broker), Postgres::start(PostgresSettings::default()))?;
        Ok(Self { broker, postgres, folder: Folder::create("bench")?, callback, load })
    }
}

/// A scheme's processes. Dropping the value ends them.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    scheme: Scheme,
    ground: &'a Ground,
    vhost: Vhost,
    service: Service,
    producer: RoleProcess,
    consumer: Option<RoleProcess>,
    /// How many messages the producer was ordered to publish, in all.
    ordered: u64,
    /// A connection into the service's database.
    pool: PgPool,
    _database: Database,
    _upstream_port: Port,
}

/// The process that records confirms and looks checks up.
#[derive(Debug)]
enum Service {
    None,
    Callback(Process),
    Ledger(RoleProcess),
}

/// How far a run is, in messages since its processes were started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// A caller of the producer may think that its work is done.
    accepted: u64,
    /// Consumed.
    consumed: u64,
    /// Messages recorded or, in a scheme that records nothing, consumed and acked.
    finished: u64,
}

/// When all ordered messages were done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finish {
    /// After this long, every caller was done.
    pub(crate) accepted: Duration,
    /// After this long, every message was done.
    pub(crate) finished: Duration,
}

impl<'a> Run<'a> {
    /// Starts the producer and the recording service, but not the consumer.
    ///
    /// # Errors
    /// If one of them does not start.
    pub(crate) async fn start(ground: &'a Ground, scheme: Scheme) -> Result<Self> {
        let vhost = Vhost::create(ground.broker.address()).await?;
        let database = Database::create(ground.postgres.address()).await?;
        let upstream_port = Port::claim()?;
        let service = match scheme {
            Scheme::Unprotected => Service::None,
            Scheme::Countersign => {
                let service = callback(ground, &vhost, &database, upstream_port.number());
                Service::Callback(service.await?)
            }
            Scheme::Textbook => {
                let load = &ground.load;
                let arguments = [
                    format!("--amqp-url={}", vhost.url()),
                    format!("--database-url={}", database.url()),
                    format!("--tier={}", load.tier),
                    format!("--concurrency={}", load.textbook_concurrency),
                ];
                Service::Ledger(RoleProcess::start("ledger", arguments.into()).await?)
            }
        };
        let arguments = [
            format!("--scheme={}", scheme.key()),
            format!("--amqp-url={}", vhost.url()),
            format!("--callers={}", ground.load.callers),
            format!("--tier={}", ground.load.tier),
            format!("--port={}", upstream_port.number()),
        ];
        let producer = RoleProcess::start("producer", arguments.into()).await?;
        let pool = database.pool().await?;
        Ok(Self {
            scheme,
            ground,
            vhost,
            service,
            producer,
            consumer: None,
            ordered: 0,
            pool,
            _database: database,
            _upstream_port: upstream_port,
        })
    }

    /// Starts the consumer.
    ///
    /// # Errors
    /// If the consumer does not start.
    pub(crate) async fn consume(&mut self) -> Result<()> {
        let arguments = [
            format!("--scheme={}", self.scheme.key()),
            format!("--amqp-url={}", self.vhost.url()),
            format!("--prefetch={}", self.ground.load.prefetch),
        ];
        self.consumer = Some(RoleProcess::start("consumer", arguments.into()).await?);
        Ok(())
    }

    /// Lets the producer publish this many more messages, at full rate.
    ///
    /// # Errors
    /// If the producer is gone.
    pub(crate) async fn publish(&mut self, messages: u64) -> Result<()> {
        self.ordered += messages;
        self.producer.order(messages).await
    }

    /// Waits until the callers are done with all ordered messages.
    ///
    /// # Errors
    /// If a process fails, or the count stops moving.
    pub(crate) async fn accepted(&mut self, bar: &ProgressBar) -> Result<()> {
        self.follow(bar, |progress| progress.accepted).await.map(drop)
    }

    /// Waits until all ordered messages are consumed and acked or, in a scheme that records
    /// confirms, recorded.
    ///
    /// # Errors
    /// If a process fails, or the count stops moving.
    pub(crate) async fn finished(&mut self, bar: &ProgressBar) -> Result<Finish> {
        self.follow(bar, |progress| progress.finished).await
    }

    /// How many messages were not confirmed when their check was looked up: late, since none is
    /// lost here.
    ///
    /// # Errors
    /// If the database does not answer.
    pub(crate) async fn overdue(&self) -> Result<u64> {
        match self.service {
            Service::None => Ok(0),
            Service::Callback(_) | Service::Ledger(_) => {
                count(&self.pool, "SELECT count(*) FROM overdue").await
            }
        }
    }

    /// The usage of all processes since their start.
    ///
    /// # Errors
    /// If a process has ended.
    pub(crate) fn usage(&self) -> Result<Vec<Usage>> {
        let mut usage = vec![self.producer.usage()?];
        usage.extend(self.consumer.as_ref().map(RoleProcess::usage).transpose()?);
        match &self.service {
            Service::None => {}
            Service::Callback(process) => usage.push(Usage::of(SERVICE, process.id())?),
            Service::Ledger(process) => usage.push(Usage { process: SERVICE, ..process.usage()? }),
        }
        Ok(usage)
    }

    /// Polls until `part` of the progress equals the ordered count.
    async fn follow(
        &mut self,
        bar: &ProgressBar,
        part: impl Fn(&Progress) -> u64,
    ) -> Result<Finish> {
        /// How exact the result's time is.
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let begun = Instant::now();
        let already = self.ordered - bar.length().unwrap_or(self.ordered).min(self.ordered);
        let mut looks = interval(LOOK_EVERY);
        // A look at the database may take longer than the interval: late looks are not made up for.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Progress::default();
        let (mut moved, mut accepted) = (begun, None);
        loop {
            looks.tick().await;
            let progress = self.progress().await?;
            let now = Instant::now();
            if progress != last {
                (last, moved) = (progress, now);
                bar.set_position(part(&progress).max(progress.consumed).saturating_sub(already));
            }
            if accepted.is_none() && progress.accepted >= self.ordered {
                accepted = Some(now - begun);
            }
            if part(&progress) >= self.ordered {
                let finished = now - begun;
                return Ok(Finish { accepted: accepted.unwrap_or(finished), finished });
            }
            if now - moved > self.ground.load.patience {
                bail!(
                    "{}: nothing has moved for {:?}: {} messages ordered, {progress:?}{}",
                    self.scheme,
                    self.ground.load.patience,
                    self.ordered,
                    self.service.last_words()
                );
            }
        }
    }

    async fn progress(&mut self) -> Result<Progress> {
        let accepted = self.producer.done()?;
        let consumed = self.consumer.as_ref().map(RoleProcess::done).transpose()?.unwrap_or(0);
        let finished = match &mut self.service {
            Service::None => consumed,
            // Counting rows is not free: the count begins when all of them can be there.
            _ if consumed < self.ordered => 0,
            Service::Ledger(process) => {
                process.done()?;
                count(&self.pool, "SELECT count(*) FROM confirmation").await?
            }
            Service::Callback(process) => {
                let ended = process.ended();
                ensure!(ended.is_none(), "the callback service ended: {}", process.log_tail(20));
                count(&self.pool, "SELECT count(*) FROM confirmation").await?
            }
        };
        Ok(Progress { accepted, consumed, finished })
    }
}

impl Service {
    fn last_words(&self) -> String {
        match self {
            Self::Callback(process) => {
                format!("\nThe callback service's last lines:\n{}", process.log_tail(20))
            }
            Self::None | Self::Ledger(_) => String::new(),
        }
    }
}

async fn count(pool: &PgPool, query: &'static str) -> Result<u64> {
    let count: i64 = sqlx::query_scalar(query).fetch_one(pool).await.context(query)?;
    Ok(u64::try_from(count)?)
}

/// Starts the real callback service, and waits until it serves.
async fn callback(
    ground: &Ground,
    vhost: &Vhost,
    database: &Database,
    upstream_port: u16,
) -> Result<Process> {
    const SERVES_WITHIN: Duration = Duration::from_secs(60);
    const ASK_EVERY: Duration = Duration::from_millis(100);
    let program = ground.callback.display().to_string();
    let listen = Port::claim()?;
    let mut launch = Launch::new("callback", [&program])
        .env("COUNTERSIGN_AMQP_URL", vhost.url())
        .env("COUNTERSIGN_DATABASE_URL", database.url())
        .env("COUNTERSIGN_LISTEN", format!("127.0.0.1:{}", listen.number()))
        .env("COUNTERSIGN_UPSTREAMS", format!("{UPSTREAM}=http://127.0.0.1:{upstream_port}"))
        .env("COUNTERSIGN_CHECK_TIERS", ground.load.tier.to_string())
        .env("COUNTERSIGN_LOG", "warn");
    launch.bare = true;
    let mut process = Process::start(&ground.folder, &launch)?;
    let end = Instant::now() + SERVES_WITHIN;
    loop {
        let asked = Command::new(&program)
            .arg("healthcheck")
            .env("COUNTERSIGN_LISTEN", format!("127.0.0.1:{}", listen.number()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await?;
        if asked.success() {
            return Ok(process);
        }
        let why = match process.ended() {
            Some(status) => format!("ended ({status})"),
            None if Instant::now() > end => format!("did not serve within {SERVES_WITHIN:?}"),
            None => {
                sleep(ASK_EVERY).await;
                continue;
            }
        };
        bail!("the callback service {why}; its last lines:\n{}", process.log_tail(40));
    }
}

//! A private RabbitMQ.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use countersign_management::Management;
use tokio::time::Instant;

use crate::process::{Launch, Process, Signal};
use crate::{Folder, Port};

/// Debian's package puts the real programs here; those on `PATH` insist on root or the rabbitmq
/// user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// A node takes 4 to 8 s to start; two cores that also build and test need several times that.
const START_WITHIN: Duration = Duration::from_secs(90);
/// An orderly stop takes 3 to 7 s, most of it waiting for connections to close.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// Ports can be taken between choosing and using them.
const STARTS: usize = 4;
/// A busy machine creates a vhost in seconds, not in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const USER: &str = "testbed";
/// The folder of the data that the broker must not lose.
const DATA: &str = "data";
const FRESH_FIGURES: &str = "\
collect_statistics_interval = 200
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.minute = 1";

/// A RabbitMQ node of the test's own: ports, data and cookie in a temporary folder, management API
/// on.
///
/// Dropping the value kills the node and removes its data. A test can kill, stop, freeze, wipe and
/// restart the node on the same ports.
#[derive(Debug)]
pub struct Broker {
    // The process is killed before its folder goes.
    process: Option<Process>,
    address: BrokerAddress,
    ports: Ports,
    settings: BrokerSettings,
    folder: Folder,
}

/// A broker's ports and administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// The broker's AMQP port on 127.0.0.1.
    pub amqp_port: u16,
    /// The management API's port on 127.0.0.1.
    pub management_port: u16,
    /// The administrator's name.
    pub user: String,
    /// The administrator's password, without characters that a URL would have to encode.
    pub password: String,
}

impl BrokerAddress {
    /// The URL of a vhost, `/` among them.
    #[must_use]
    pub fn url(&self, vhost: &str) -> String {
        let Self { amqp_port, user, password, .. } = self;
        let vhost =
            percent_encoding::utf8_percent_encode(vhost, percent_encoding::NON_ALPHANUMERIC);
        format!("amqp://{user}:{password}@127.0.0.1:{amqp_port}/{vhost}")
    }

    /// The management API's address, for programs that bring their own client.
    #[must_use]
    pub fn management_url(&self) -> String {
        let Self { management_port, user, password, .. } = self;
        format!("http://{user}:{password}@127.0.0.1:{management_port}")
    }

    /// A client of the management API.
    ///
    /// # Panics
    /// If user or password have characters that a URL would have to encode.
    #[must_use]
    pub fn management(&self) -> Management {
        let url = self.management_url().parse().expect("a private broker's address is one");
        Management::new(url, ANSWER_WITHIN)
    }
}

/// How a private broker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSettings {
    /// Whether the management API's figures (depths, connections) are refreshed every second
    /// instead of every five, which costs the broker some work: off for benchmarks. Default: on.
    pub fresh_figures: bool,
    /// More lines for `rabbitmq.conf`. Default: none.
    pub config: String,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self { fresh_figures: true, config: String::new() }
    }
}

#[derive(Debug)]
struct Ports {
    amqp: Port,
    management: Port,
    distribution: Port,
}

impl Ports {
    fn claim() -> Result<Self> {
        Ok(Self { amqp: Port::claim()?, management: Port::claim()?, distribution: Port::claim()? })
    }
}

impl Broker {
    /// Starts a broker and waits until it serves: 4 to 8 s.
    ///
    /// # Errors
    /// If RabbitMQ is not installed or does not start. The error says what to do, with the broker's
    /// last lines.
    pub async fn start(settings: BrokerSettings) -> Result<Self> {
        if !Path::new(PROGRAMS).join("rabbitmq-server").exists() {
            bail!(
                "RabbitMQ is not installed ({PROGRAMS}/rabbitmq-server): run crates/countersign-testbed/install"
            );
        }
        let folder = Folder::create("rabbitmq")?;
        std::fs::create_dir(folder.path().join("home"))?;
        std::fs::write(folder.path().join("plugins"), "[rabbitmq_management].\n")?;
        let ports = Ports::claim()?;
        let password: String = std::iter::repeat_with(fastrand::alphanumeric).take(16).collect();
        let address = BrokerAddress {
            amqp_port: ports.amqp.number(),
            management_port: ports.management.number(),
            user: USER.to_owned(),
            password,
        };
        let mut broker = Self { process: None, address, ports, settings, folder };
        for tries_left in (0..STARTS).rev() {
            broker.configure()?;
            match broker.restart().await {
                Ok(()) => return Ok(broker),
                Err(error) if tries_left == 0 || !says_port_is_taken(&error) => {
                    return Err(error);
                }
                Err(_) => {
                    broker.ports = Ports::claim()?;
                    broker.address.amqp_port = broker.ports.amqp.number();
                    broker.address.management_port = broker.ports.management.number();
                }
            }
        }
        unreachable!("the last try returns")
    }

    /// The broker's ports and administrator.
    #[must_use]
    pub fn address(&self) -> &BrokerAddress {
        &self.address
    }

    /// The folder with the broker's data and its log `rabbitmq.log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the broker write down which queues it has. RabbitMQ (3.10.8) does so half a second
    /// after the last change. Killed before that, it comes back with quorum queues that do not
    /// answer.
    ///
    /// # Errors
    /// If `rabbitmqctl` fails.
    pub async fn settle(&self) -> Result<()> {
        self.ctl(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."]).await.map(drop)
    }

    /// Kills the broker with SIGKILL. Data that it had not written is lost; see [`Self::settle`].
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the broker in an orderly way.
    ///
    /// # Errors
    /// If the broker does not stop in time.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            process.signal(Signal::Term);
            process.wait(STOP_WITHIN).await?;
        }
        self.process = None;
        Ok(())
    }

    /// Freezes the broker, with all its connections open, until [`Self::thaw`].
    pub fn freeze(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::Stop);
        }
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::Cont);
        }
    }

    /// Starts the broker, after killing it if it still runs, on its data and ports, and waits until
    /// it serves.
    ///
    /// # Errors
    /// If the broker does not start, with its last lines.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = None;
        let launch = Launch {
            environment: self.environment(),
            bare: true,
            ..Launch::new("rabbitmq", [format!("{PROGRAMS}/rabbitmq-server")])
        };
        let process = self.process.insert(Process::start(&self.folder, &launch)?);
        let management = self.address.management();
        let port = self.address.amqp_port.to_string();
        let end = Instant::now() + START_WITHIN;
        loop {
            // The management API is asked, because the AMQP port accepts connections before the
            // broker serves.
            if let Ok(Some(_)) = management.get(&["health", "checks", "port-listener", &port]).await
            {
                return Ok(());
            }
            let why = match process.ended() {
                Some(status) => format!("ended ({status})"),
                None if Instant::now() > end => format!("was not up after {START_WITHIN:?}"),
                None => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            bail!("RabbitMQ {why}; its last lines:\n{}", process.log_tail(40));
        }
    }

    /// Kills the broker, deletes all of its data, and starts it again, as a broker that lost its
    /// disks. Users but for the administrator, vhosts, queues and messages are gone.
    ///
    /// # Errors
    /// If the data cannot be deleted, or the broker does not start.
    pub async fn wipe(&mut self) -> Result<()> {
        self.kill();
        let data = self.folder.path().join(DATA);
        std::fs::remove_dir_all(&data)
            .with_context(|| format!("{} cannot be deleted", data.display()))?;
        self.restart().await
    }

    /// Runs `rabbitmqctl` against the broker: 1 to 2 s.
    ///
    /// # Errors
    /// If the command fails, with its output.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new(format!("{PROGRAMS}/rabbitmqctl"));
        if let Some(path) = std::env::var_os("PATH") {
            command.env_clear().env("PATH", path);
        }
        let output = command
            .envs(self.environment())
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("rabbitmqctl could not be started")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "rabbitmqctl {}: {printed}{}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(printed)
    }

    /// Raises or clears the memory alarm. While the alarm lasts, RabbitMQ reads nothing from any
    /// connection that has published.
    ///
    /// # Errors
    /// If `rabbitmqctl` fails.
    pub async fn memory_alarm(&self, raised: bool) -> Result<()> {
        self.ctl(&["set_vm_memory_high_watermark", if raised { "0" } else { "0.6" }])
            .await
            .map(drop)
    }

    fn configure(&self) -> Result<()> {
        let BrokerAddress { amqp_port, management_port, user, password } = &self.address;
        let figures = if self.settings.fresh_figures { FRESH_FIGURES } else { "" };
        let more = &self.settings.config;
        std::fs::write(
            self.folder.path().join("rabbitmq.conf"),
            format!(
                "listeners.tcp.1 = 127.0.0.1:{amqp_port}\n\
                 management.tcp.ip = 127.0.0.1\n\
                 management.tcp.port = {management_port}\n\
                 default_user = {user}\n\
                 default_pass = {password}\n\
                 {figures}\n\
                 {more}\n"
            ),
        )?;
        // How often a quorum queue counts itself: the setting has no name in `rabbitmq.conf`.
        let tick = if self.settings.fresh_figures {
            "[{rabbit, [{quorum_tick_interval, 500}]}].\n"
        } else {
            "[].\n"
        };
        std::fs::write(self.folder.path().join("advanced.config"), tick)?;
        Ok(())
    }

    fn environment(&self) -> Vec<(String, String)> {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
        [
            ("HOME", at("home")),
            ("LANG", "C.UTF-8".to_owned()),
            ("RABBITMQ_NODENAME", format!("countersign{}@localhost", self.ports.amqp)),
            ("RABBITMQ_DIST_PORT", self.ports.distribution.to_string()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", loopback.to_owned()),
            ("RABBITMQ_MNESIA_BASE", at(DATA)),
            ("RABBITMQ_LOG_BASE", at("log")),
            // The log goes to standard output, which goes to `rabbitmq.log`.
            ("RABBITMQ_LOGS", "-".to_owned()),
            ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins")),
            // The system service's settings are left out.
            ("RABBITMQ_CONF_ENV_FILE", at("rabbitmq-env.conf")),
            // The start script then *becomes* the server instead of waiting for it.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// The AMQP and the management port fail with the first, the distribution port with the second.
fn says_port_is_taken(error: &anyhow::Error) -> bool {
    let said = error.to_string();
    ["eaddrinuse", "dist_port_already_used"].iter().any(|sign| said.contains(sign))
}

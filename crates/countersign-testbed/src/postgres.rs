//! A private Postgres.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sqlx::Connection as _;
use tokio::process::Command;
use tokio::time::Instant;

use crate::process::{Launch, Process, Signal};
use crate::{Clock, Folder, Port};

/// Debian's packages put the programs here, one folder per major version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The user that runs Postgres when this process is root: Postgres refuses to run as root.
const UNPRIVILEGED: &str = "postgres";
const START_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// Ports can be taken between choosing and using them.
const STARTS: usize = 4;
const USER: &str = "postgres";

/// A Postgres server of the test's own: port and data in a temporary folder, `fsync` on.
///
/// Dropping the value kills the server and removes its data. A test can kill, stop, freeze and
/// restart the server on the same port and data.
#[derive(Debug)]
pub struct Postgres {
    // The folder is dropped first: its caretaker stops the process with the signal that leaves no
    // System V shared memory behind, which SIGKILL would.
    folder: Folder,
    process: Option<Process>,
    address: PostgresAddress,
    port: Port,
    settings: PostgresSettings,
    programs: PathBuf,
    as_user: Option<Unprivileged>,
}

/// A Postgres server's port and superuser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresAddress {
    /// The server's port on 127.0.0.1.
    pub port: u16,
    /// The superuser's name.
    pub user: String,
    /// The superuser's password, without characters that a URL would have to encode.
    pub password: String,
}

impl PostgresAddress {
    /// The URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let Self { port, user, password } = self;
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}")
    }
}

/// How a private Postgres runs.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// How many sessions the server takes. Default: 400.
    pub max_connections: u32,
    /// More settings, as in `postgresql.conf`; they win over the testbed's. Default: none.
    pub more: Vec<(String, String)>,
    /// The clock that the server runs on. Default: the machine's.
    pub clock: Option<Arc<Clock>>,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self { max_connections: 400, more: Vec::new(), clock: None }
    }
}

impl Postgres {
    /// Starts a server and waits until it answers: about 2 s.
    ///
    /// # Errors
    /// If Postgres is not installed or does not start. The error says what to do, with the server's
    /// last lines.
    pub async fn start(settings: PostgresSettings) -> Result<Self> {
        let programs = newest_version()?;
        let folder = Folder::create("postgres")?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        let as_user = rustix::process::getuid().is_root().then(Unprivileged::find).transpose()?;
        if let Some(user) = &as_user {
            user.give(&data)?;
        }
        let password: String = std::iter::repeat_with(fastrand::alphanumeric).take(16).collect();
        let port = Port::claim()?;
        let address = PostgresAddress { port: port.number(), user: USER.to_owned(), password };
        let mut postgres =
            Self { folder, process: None, address, port, settings, programs, as_user };
        postgres.make_cluster().await?;
        for tries_left in (0..STARTS).rev() {
            match postgres.restart().await {
                Ok(()) => return Ok(postgres),
                Err(error) if tries_left == 0 || !error.to_string().contains("already in use") => {
                    return Err(error);
                }
                Err(_) => {
                    postgres.port = Port::claim()?;
                    postgres.address.port = postgres.port.number();
                }
            }
        }
        unreachable!("the last try returns")
    }

    /// The server's port and superuser.
    #[must_use]
    pub fn address(&self) -> &PostgresAddress {
        &self.address
    }

    /// The folder with the server's data and its log `postgres.log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends every process of the server at once, as a crash would: committed data stays, sessions
    /// end.
    ///
    /// # Errors
    /// If the server does not end in time.
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Signal::Quit).await
    }

    /// Stops the server in an orderly way and ends its sessions.
    ///
    /// # Errors
    /// If the server does not stop in time.
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::Int).await
    }

    /// Starts the server, after killing it if it still runs, on its data and port, and waits until
    /// it answers.
    ///
    /// # Errors
    /// If the server does not start, with its last lines.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        let data = self.folder.path().join("data");
        let mut command = self.command("postgres");
        if let Some(clock) = &self.settings.clock {
            // The clock is for Postgres alone: of the shell and `setpriv` before it, which run as root, files
            // would be left that Postgres may not open.
            let variables = clock.environment().map(|(name, value)| format!("{name}={value}"));
            let program = command.len() - 1;
            command.splice(program..program, std::iter::once("env".to_owned()).chain(variables));
        }
        command.extend(["-D".to_owned(), data.display().to_string()]);
        let ours = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            // There is no socket file: nothing to clean up, no path that could be too long.
            ("unix_socket_directories", String::new()),
            ("max_connections", self.settings.max_connections.to_string()),
            // Shared memory is files among the data, which go when the data goes.
            ("dynamic_shared_memory_type", "mmap".to_owned()),
            ("timezone", "UTC".to_owned()),
        ];
        let more = self.settings.more.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in ours.into_iter().chain(more) {
            command.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        let launch = Launch {
            bare: true,
            current_dir: Some(data),
            stop_signal: Signal::Quit,
            ..Launch::new("postgres", command)
        }
        .env("LANG", "C.UTF-8");
        let process = self.process.insert(Process::start(&self.folder, &launch)?);
        let url = self.address.url("postgres");
        let end = Instant::now() + START_WITHIN;
        loop {
            if let Ok(connection) = sqlx::PgConnection::connect(&url).await {
                let _ = connection.close().await;
                return Ok(());
            }
            let why = match process.ended() {
                Some(status) => format!("ended ({status})"),
                None if Instant::now() > end => format!("was not up after {START_WITHIN:?}"),
                None => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            bail!("Postgres {why}; its last lines:\n{}", process.log_tail(40));
        }
    }

    /// Runs one statement in database `postgres`, as superuser.
    ///
    /// # Errors
    /// If the statement fails.
    pub async fn run(&self, statement: &str) -> Result<()> {
        run(&self.address, statement).await
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        if let Some(process) = &mut self.process {
            process.signal(signal);
            process.wait(STOP_WITHIN).await?;
        }
        self.process = None;
        Ok(())
    }

    fn command(&self, program: &str) -> Vec<String> {
        let mut command = self.as_user.as_ref().map(Unprivileged::prefix).unwrap_or_default();
        command.push(self.programs.join(program).display().to_string());
        command
    }

    async fn make_cluster(&self) -> Result<()> {
        let data = self.folder.path().join("data");
        let password_file = self.folder.path().join("password");
        std::fs::write(&password_file, &self.address.password)?;
        if let Some(user) = &self.as_user {
            user.give(&password_file)?;
        }
        let mut command = self.command("initdb");
        command.extend(
            [
                "--username",
                USER,
                // The password is compared in plain text: a debug build takes long over the
                // thousands of rounds of SCRAM, for each connection, and nothing leaves this
                // machine.
                "--auth=password",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--pwfile",
            ]
            .map(str::to_owned),
        );
        command.push(password_file.display().to_string());
        command.push(data.display().to_string());
        let output = Command::new(&command[0])
            .args(&command[1..])
            .current_dir(&data)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("{} could not be started", command[0]))?;
        std::fs::remove_file(&password_file)?;
        if !output.status.success() {
            bail!(
                "initdb failed ({}): {}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }
}

/// Runs one statement in database `postgres`.
pub(crate) async fn run(address: &PostgresAddress, statement: &str) -> Result<()> {
    let mut connection = sqlx::PgConnection::connect(&address.url("postgres"))
        .await
        .context("no connection to Postgres")?;
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await;
    connection.close().await?;
    done.with_context(|| statement.to_owned())?;
    Ok(())
}

fn newest_version() -> Result<PathBuf> {
    let newest = std::fs::read_dir(VERSIONS)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let version = entry.ok()?;
            let programs = version.path().join("bin");
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            programs.join("postgres").exists().then_some((number, programs))
        })
        .max();
    match newest {
        Some((_, programs)) => Ok(programs),
        None => bail!(
            "Postgres is not installed ({VERSIONS}/*/bin/postgres): run crates/countersign-testbed/install"
        ),
    }
}

/// The user that runs Postgres when we are root.
#[derive(Clone, Copy, Debug)]
struct Unprivileged {
    user: u32,
    group: u32,
}

impl Unprivileged {
    fn find() -> Result<Self> {
        let accounts =
            std::fs::read_to_string("/etc/passwd").context("/etc/passwd cannot be read")?;
        accounts
            .lines()
            .find_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                if fields.first() != Some(&UNPRIVILEGED) {
                    return None;
                }
                Some(Self { user: fields.get(2)?.parse().ok()?, group: fields.get(3)?.parse().ok()? })
            })
            .with_context(|| {
                format!("Postgres does not run as root, and there is no user {UNPRIVILEGED}: run this as another user")
            })
    }

    fn give(self, path: &Path) -> Result<()> {
        std::os::unix::fs::chown(path, Some(self.user), Some(self.group)).with_context(|| {
            format!("{} could not be given to user {UNPRIVILEGED}", path.display())
        })
    }

    fn prefix(&self) -> Vec<String> {
        let Self { user, group } = self;
        ["setpriv", &format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups"]
            .map(str::to_owned)
            .to_vec()
    }
}

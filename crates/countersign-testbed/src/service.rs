//! A program of Countersign, run as users run it: as a process, set up by its environment.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;

use crate::process::{self, Launch, Process, Signal, last_lines};
use crate::{Clock, Folder, Port};

/// The address on which a service serves gRPC.
const LISTEN: &str = "COUNTERSIGN_LISTEN";
/// A look at a service's health starts a process, so it is not free.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many lines of a service's log an error shows.
const TAIL: usize = 60;

/// A service: where its binary is, its environment, its port, and its process while it runs.
///
/// Several tasks may start and kill its process at a time. Dropping the service kills it; while a
/// test panics, its last lines are shown first.
#[derive(Debug)]
pub struct Service {
    name: String,
    binary: PathBuf,
    environment: Vec<(String, String)>,
    port: Port,
    process: Mutex<Option<Process>>,
    // The folder is dropped last: its caretaker finds nothing left to do.
    folder: Arc<Folder>,
}

impl Service {
    /// Gets ready to start `binary` under the name `name`, with a port of its own in
    /// `COUNTERSIGN_LISTEN`. Nothing is started yet.
    ///
    /// # Errors
    /// If the binary has not been built, or there is no free port.
    pub fn new(folder: &Arc<Folder>, name: &str, binary: &str) -> Result<Self> {
        let binary = program(binary)?;
        let port = Port::claim()?;
        let environment = vec![(LISTEN.to_owned(), format!("127.0.0.1:{port}"))];
        Ok(Self {
            name: name.to_owned(),
            binary,
            environment,
            port,
            process: Mutex::new(None),
            folder: Arc::clone(folder),
        })
    }

    /// Another service of the same kind: same binary, same environment, a port of its own.
    ///
    /// # Errors
    /// If there is no free port.
    pub fn replica(&self, folder: &Arc<Folder>, name: &str) -> Result<Self> {
        let port = Port::claim()?;
        let mut replica = Self {
            name: name.to_owned(),
            binary: self.binary.clone(),
            environment: self.environment.clone(),
            port,
            process: Mutex::new(None),
            folder: Arc::clone(folder),
        };
        let listen = format!("127.0.0.1:{}", replica.port);
        replica.set(LISTEN, listen);
        Ok(replica)
    }

    /// Sets a variable of the service's environment, from its next start on.
    pub fn set(&mut self, variable: &str, value: impl Into<String>) -> &mut Self {
        self.unset(variable);
        self.environment.push((variable.to_owned(), value.into()));
        self
    }

    /// Runs the service on this clock, from its next start on.
    pub fn on(&mut self, clock: &Clock) -> &mut Self {
        for (variable, value) in clock.environment() {
            self.set(variable, value);
        }
        self
    }

    /// Removes a variable from the service's environment, from its next start on.
    pub fn unset(&mut self, variable: &str) -> &mut Self {
        self.environment.retain(|(name, _)| name != variable);
        self
    }

    /// Starts the service, after killing it if it still runs. It sees its own environment only, not
    /// this process's.
    ///
    /// # Errors
    /// If the service cannot be started.
    pub fn start(&self) -> Result<()> {
        let mut process = self.process();
        // The old process ends before the new one binds the port.
        *process = None;
        let launch = Launch {
            environment: self.environment.clone(),
            bare: true,
            ..Launch::new(&self.name, [self.binary.display().to_string()])
        };
        *process = Some(Process::start(&self.folder, &launch)?);
        Ok(())
    }

    /// Waits until the service's `healthcheck` says that it is ready.
    ///
    /// # Errors
    /// If the service ends, or is not ready after `deadline`; with its last lines.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time: the service runs on.
    pub async fn ready(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            self.check_alive()?;
            let Err(why) = self.healthcheck().await? else { return Ok(()) };
            if Instant::now() > end {
                bail!(
                    "{} is not ready after {deadline:?}: {why}; its last lines:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Fails if the service has ended by itself, neither [`kill`](Self::kill)ed nor
    /// [`terminate`](Self::terminate)d.
    ///
    /// # Errors
    /// If the service has ended: how, with its last lines.
    pub fn check_alive(&self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                bail!(
                    "{} ended by itself ({status}); its last lines:\n{}",
                    self.name,
                    self.log_tail()
                )
            }
        }
    }

    /// Kills the service with SIGKILL; returns when it is gone.
    pub fn kill(&self) {
        *self.process() = None;
    }

    /// Stops the service with SIGTERM; returns how it ended.
    ///
    /// # Errors
    /// If the service does not run, or is still alive after `deadline`; with its last lines.
    pub async fn terminate(&self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::Term);
        let status = self.wait(deadline).await?;
        self.kill();
        Ok(status)
    }

    /// Waits for the service to end by itself.
    ///
    /// # Errors
    /// If the service was not started, or is still alive after `deadline`; with its last lines.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time: it only looks.
    pub async fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        if !self.is_meant_to_run() {
            bail!("{} was not started", self.name);
        }
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!(
                    "{} is still alive after {deadline:?}; its last lines:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(process::LOOK_EVERY).await;
        }
    }

    /// Sends the service a signal, if it runs: [`Signal::Stop`] freezes it, [`Signal::Cont`] lets
    /// it go on.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &mut *self.process() {
            process.signal(signal);
        }
    }

    /// Whether the service was started, and neither [`kill`](Self::kill)ed nor
    /// [`terminate`](Self::terminate)d since.
    #[must_use]
    pub fn is_meant_to_run(&self) -> bool {
        self.process().is_some()
    }

    /// How the service ended, if it has ended by itself.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.process().as_mut().and_then(Process::ended)
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of the service's gRPC server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The address of the service's gRPC server.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The service's output, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.folder.log_of(&self.name)
    }

    /// Runs the service's `healthcheck`; the inner error is its output.
    async fn healthcheck(&self) -> Result<Result<(), String>> {
        let answer = tokio::process::Command::new(&self.binary)
            .arg("healthcheck")
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let answer = answer.with_context(|| {
            format!("{} healthcheck could not be started", self.binary.display())
        })?;
        if answer.status.success() {
            return Ok(Ok(()));
        }
        Ok(Err(String::from_utf8_lossy(&answer.stderr).into_owned()))
    }

    /// Every step on a process is whole, so a step that panicked left nothing half done.
    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_tail(&self) -> String {
        last_lines(&self.log(), TAIL)
    }
}

impl Drop for Service {
    #[expect(clippy::print_stderr, reason = "shown with the failed test's own output")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the last lines of {}\n{}", self.name, self.log_tail());
        }
    }
}

/// The path of a program of the workspace: it lies beside this program in the target folder (test
/// programs are one level deeper, in `deps`).
///
/// # Errors
/// When the program is not built.
pub fn program(binary: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("this program's own path is unknown")?;
    let folders = this.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(binary)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{binary} is not built, or not beside {}: run cargo build --workspace --bins first",
            this.display()
        )
    })
}

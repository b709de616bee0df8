//! One of our own programs, running as users run it: as a process, set up by its environment.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;

use crate::process::{Launch, Process, Signal, last_lines};
use crate::{Folder, Port};

/// Where it serves gRPC.
const LISTEN: &str = "COUNTERSIGN_LISTEN";
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How much of its log is shown when something goes wrong.
const TAIL: usize = 60;

/// A service of ours: where its binary is, its environment, its port, and its process while it runs.
///
/// Dropping it kills it; while a test panics, its last lines are shown first.
#[derive(Debug)]
pub struct Service {
    name: String,
    binary: PathBuf,
    environment: Vec<(String, String)>,
    port: Port,
    process: Option<Process>,
    // Dropped last: its caretaker is to find nothing left to do.
    folder: Arc<Folder>,
}

impl Service {
    /// Gets ready to start `binary` under the name `name`, with a port of its own in
    /// `COUNTERSIGN_LISTEN`. Nothing is started yet.
    ///
    /// # Errors
    /// If the binary has not been built, or there is no free port.
    pub fn new(folder: &Arc<Folder>, name: &str, binary: &str) -> Result<Self> {
        let binary = find(binary)?;
        let port = Port::claim()?;
        let environment = vec![(LISTEN.to_owned(), format!("127.0.0.1:{port}"))];
        Ok(Self {
            name: name.to_owned(),
            binary,
            environment,
            port,
            process: None,
            folder: Arc::clone(folder),
        })
    }

    /// Another one of the same kind: same binary, same environment, a port of its own.
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
            process: None,
            folder: Arc::clone(folder),
        };
        let listen = format!("127.0.0.1:{}", replica.port);
        replica.set(LISTEN, listen);
        Ok(replica)
    }

    /// Sets a variable of its environment, from its next start on.
    pub fn set(&mut self, variable: &str, value: impl Into<String>) -> &mut Self {
        self.unset(variable);
        self.environment.push((variable.to_owned(), value.into()));
        self
    }

    /// Removes a variable from its environment, from its next start on.
    pub fn unset(&mut self, variable: &str) -> &mut Self {
        self.environment.retain(|(name, _)| name != variable);
        self
    }

    /// Starts it, after killing it if it still runs. It sees its own environment only, not this
    /// process's.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.kill();
        let launch = Launch {
            environment: self.environment.clone(),
            bare: true,
            ..Launch::new(&self.name, [self.binary.display().to_string()])
        };
        self.process = Some(Process::start(&self.folder, &launch)?);
        Ok(())
    }

    /// Waits until its `healthcheck` says that it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready after `deadline`; with its last lines.
    pub async fn ready(&mut self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.ended() {
                bail!("{} ended ({status}); its last lines:\n{}", self.name, self.log_tail());
            }
            let healthy = tokio::process::Command::new(&self.binary)
                .arg("healthcheck")
                .env_clear()
                .envs(self.environment.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output()
                .await
                .with_context(|| {
                    format!("{} healthcheck could not be started", self.binary.display())
                })?;
            if healthy.status.success() {
                return Ok(());
            }
            if Instant::now() > end {
                let said = String::from_utf8_lossy(&healthy.stderr).into_owned();
                bail!(
                    "{} is not ready after {deadline:?}: {said}; its last lines:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM; returns how it ended.
    ///
    /// # Errors
    /// If it does not run, or is still alive after `deadline`; with its last lines.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::Term);
        let status = self.wait(deadline).await?;
        self.process = None;
        Ok(status)
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// If it was not started, or is still alive after `deadline`; with its last lines.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let Some(process) = &mut self.process else { bail!("{} was not started", self.name) };
        process.wait(deadline).await
    }

    /// Sends it a signal, if it runs: [`Signal::Stop`] freezes it, [`Signal::Cont`] lets it go on.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// Whether it was started, and neither [`kill`](Self::kill)ed nor [`terminate`](Self::terminate)d since.
    #[must_use]
    pub fn is_meant_to_run(&self) -> bool {
        self.process.is_some()
    }

    /// How it ended, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its gRPC server listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Everything it has printed, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.folder.log_of(&self.name)
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

/// Beside this program in the target folder (test programs are one level deeper, in `deps`).
fn find(binary: &str) -> Result<PathBuf> {
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

//! One of the three services as a process of its own, killed and started at will.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use countersign_testbed::{Folder, Launch, Port, Process};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const HEALTHY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOG_LINES: usize = 20;

/// A service: its program, its port, and its process if it runs.
#[derive(Debug)]
pub(crate) struct Service {
    process: Mutex<Option<Process>>,
    launch: Launch,
    port: Port,
    up: watch::Sender<bool>,
    folder: Arc<Folder>,
}

impl Service {
    /// The program `program`, which stands beside this one, with these settings; not yet started.
    pub(crate) fn new(
        folder: &Arc<Folder>,
        name: &str,
        program: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let port = Port::claim()?;
        let mut launch = Launch::new(name, [program.display().to_string()])
            .env("COUNTERSIGN_LISTEN", format!("127.0.0.1:{port}"))
            .env("COUNTERSIGN_LOG_FORMAT", "text");
        // Not the settings of whoever runs the demo.
        launch.bare = true;
        for &(setting, value) in settings {
            launch = launch.env(setting, value);
        }
        Ok(Self {
            process: Mutex::new(None),
            launch,
            port,
            up: watch::Sender::new(false),
            folder: Arc::clone(folder),
        })
    }

    /// Where it serves gRPC.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A channel to it; calls fail while it is down.
    pub(crate) fn channel(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{}", self.address()))?.connect_lazy())
    }

    /// Whether it is up, now and from now on.
    pub(crate) fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Starts it and waits until it says that it can do its work.
    pub(crate) async fn start(&self) -> Result<()> {
        let process = Process::start(&self.folder, &self.launch)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        let end = Instant::now() + HEALTHY_WITHIN;
        while !self.is_healthy().await? {
            self.check_alive()?;
            if Instant::now() > end {
                bail!(
                    "{} was not ready after {HEALTHY_WITHIN:?}; its last lines:\n{}",
                    self.launch.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.up.send_replace(true);
        Ok(())
    }

    /// SIGKILL; returns when it is dead.
    pub(crate) fn kill(&self) {
        self.up.send_replace(false);
        if let Some(mut process) =
            self.process.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            process.kill();
        }
    }

    /// # Errors
    /// If it ended without having been killed.
    pub(crate) fn check_alive(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        match process.as_mut().and_then(Process::ended) {
            None => Ok(()),
            Some(status) => {
                drop(process);
                bail!(
                    "{} ended by itself ({status}); its last lines:\n{}",
                    self.launch.name,
                    self.log_tail()
                )
            }
        }
    }

    async fn is_healthy(&self) -> Result<bool> {
        let request = HealthCheckRequest { service: String::new() };
        let answer = HealthClient::new(self.channel()?).check(request).await;
        Ok(answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving))
    }

    fn log_tail(&self) -> String {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.as_ref().map(|process| process.log_tail(LOG_LINES)).unwrap_or_default()
    }
}

/// The folder in which the services' programs are: where this one is.
pub(crate) fn programs() -> Result<std::path::PathBuf> {
    let this = std::env::current_exe().context("this program cannot find itself")?;
    Ok(this.parent().context("this program is in no folder")?.to_owned())
}

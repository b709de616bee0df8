//! One of the three services, killed and started at will; callers see whether it is up.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use countersign_testbed::Folder;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

/// How long a service may take to start. It makes its tables and declares its queues within a
/// second; the rest is for a machine that still builds.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A service and whether it is up.
#[derive(Debug)]
pub(crate) struct Service {
    service: countersign_testbed::Service,
    up: watch::Sender<bool>,
}

impl Service {
    /// The program `program`, which stands beside this one, with these settings; not yet started.
    pub(crate) fn new(
        folder: &Arc<Folder>,
        name: &str,
        program: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let mut service = countersign_testbed::Service::new(folder, name, program)
            .context("run ./demo, which builds what it runs")?;
        service.set("COUNTERSIGN_LOG_FORMAT", "text");
        for &(setting, value) in settings {
            service.set(setting, value);
        }
        Ok(Self { service, up: watch::Sender::new(false) })
    }

    /// The address of the service's gRPC server.
    pub(crate) fn address(&self) -> String {
        self.service.address()
    }

    /// A channel to the service; calls fail while it is down.
    pub(crate) fn channel(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.service.url())?.connect_lazy())
    }

    /// Whether the service is up, now and from now on.
    pub(crate) fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Starts the service and waits until it is ready.
    pub(crate) async fn start(&self) -> Result<()> {
        self.service.start()?;
        self.service.ready(READY_WITHIN).await?;
        self.up.send_replace(true);
        Ok(())
    }

    /// Kills the service with SIGKILL; returns when it is dead.
    pub(crate) fn kill(&self) {
        self.up.send_replace(false);
        self.service.kill();
    }

    /// # Errors
    /// If the service ended without having been killed.
    pub(crate) fn check_alive(&self) -> Result<()> {
        self.service.check_alive()
    }
}

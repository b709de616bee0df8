//! The running process, as its work sees it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

/// The running process: when it has to stop, and where it serves.
#[derive(Clone, Debug)]
pub struct Process {
    /// The program's name.
    pub name: &'static str,
    /// Cancelled when a signal asks the process to stop.
    pub shutdown: CancellationToken,
    /// How long after that signal the process may still take.
    pub drain: Duration,
    /// The address on which the process serves gRPC.
    pub listen: SocketAddr,
    health: HealthReporter,
    health_service: HealthService,
}

type HealthService =
    tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService>;

/// The name of all services together in the gRPC health protocol.
const WHOLE_SERVER: &str = "";

/// How long before the end of the drain the server stops waiting for its clients. A half-open
/// client can hold a graceful stop up for ever.
const SERVER_GIVES_UP_BEFORE: Duration = Duration::from_secs(1);

impl Process {
    pub(crate) async fn new(
        name: &'static str,
        shutdown: CancellationToken,
        drain: Duration,
        listen: SocketAddr,
    ) -> Self {
        let (health, _) = tonic_health::server::health_reporter();
        let health_service = tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(health.clone()),
        );
        let process = Self { name, shutdown, drain, listen, health, health_service };
        process.not_ready().await;
        process
    }

    /// Tells the health service that the process can do its work.
    pub async fn ready(&self) {
        self.health.set_service_status(WHOLE_SERVER, ServingStatus::Serving).await;
        info!(listen = %self.listen, "ready");
    }

    /// Tells the health service that the process can do its work as soon as `ready` returns, unless
    /// the process has to stop first. The wait goes on in a task of its own.
    pub fn ready_when(&self, ready: impl Future<Output = ()> + Send + 'static) {
        let process = self.clone();
        tokio::spawn(async move {
            if process.shutdown.run_until_cancelled(ready).await.is_some() {
                process.ready().await;
            }
        });
    }

    /// Tells the health service that the process cannot do its work now.
    pub async fn not_ready(&self) {
        self.health.set_service_status(WHOLE_SERVER, ServingStatus::NotServing).await;
    }

    /// Serves `routes` until the process has to stop, and lets calls under way finish.
    ///
    /// The server adds health and reflection (v1 and v1alpha) of the `descriptors`.
    ///
    /// # Errors
    /// When the process cannot listen on the address, or a descriptor set is not one.
    ///
    /// # Cancel safety
    /// Dropping the future ends the calls under way.
    pub async fn serve_grpc(
        &self,
        routes: Routes,
        descriptors: &[&'static [u8]],
    ) -> anyhow::Result<()> {
        let reflection = || {
            descriptors
                .iter()
                .fold(tonic_reflection::server::Builder::configure(), |builder, descriptor| {
                    builder.register_encoded_file_descriptor_set(descriptor)
                })
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let routes = routes
            .add_service(reflection().build_v1().context("the descriptor set cannot be read")?)
            .add_service(reflection().build_v1alpha().context("the descriptor set cannot be read")?)
            .add_service(self.health_service.clone());
        let listener = TcpListener::bind(self.listen).await.with_context(|| {
            format!("cannot listen on {}: set COUNTERSIGN_LISTEN to a free address", self.listen)
        })?;
        info!(listen = %self.listen, "gRPC listens");
        let stop = async {
            self.shutdown.cancelled().await;
            self.not_ready().await;
        };
        // Without `nodelay`, an answer of more than a packet waits 40 ms for the client's delayed
        // ACK.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving =
            Server::builder().add_routes(routes).serve_with_incoming_shutdown(incoming, stop);
        let given_up = async {
            self.shutdown.cancelled().await;
            tokio::time::sleep(self.drain.saturating_sub(SERVER_GIVES_UP_BEFORE)).await;
        };
        tokio::select! {
            biased;
            result = serving => result.context("the gRPC server failed"),
            () = given_up => {
                warn!("some gRPC clients did not hang up: closing their connections");
                Ok(())
            }
        }
    }
}

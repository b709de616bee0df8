//! The running process, as its work sees it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use countersign_retry::Pulse;
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

/// How long a call may take. The longest that is well creates a job, whose statements have 45 s each to
/// be silent; a call that waits for a server gone without a word ends here.
const CALL: Duration = Duration::from_secs(60);

/// The name of all services together in the gRPC health protocol.
const WHOLE_SERVER: &str = "";

/// How long before the end of the drain the server stops waiting for its clients. A half-open
/// client can hold a graceful stop up for ever.
const SERVER_GIVES_UP_BEFORE: Duration = Duration::from_secs(1);

/// After how long with the same thing in hand a process is not ready. A call to a silent database ends
/// after 15 s, and a shard is let go after 30 s: what lasts longer does not end by itself.
const STUCK: Duration = Duration::from_secs(60);

/// How often the readiness is looked at.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

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

    /// Tells the health service from now on, until the process has to stop, whether the process can do
    /// its work: from the end of `ready` on, unless something has been in hand for a minute. The wait
    /// goes on in a task of its own.
    pub fn keep_ready(&self, ready: impl Future<Output = ()> + Send + 'static, pulse: Pulse) {
        let process = self.clone();
        let kept = async move {
            ready.await;
            process.ready().await;
            process.follow(&pulse, STUCK).await;
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move { shutdown.run_until_cancelled(kept).await });
    }

    async fn follow(&self, pulse: &Pulse, stuck: Duration) {
        let mut is_ready = true;
        loop {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            match pulse.stuck(stuck) {
                Some(problem) if is_ready => {
                    is_ready = false;
                    warn!(problem, "not ready any more");
                    self.not_ready().await;
                }
                None if !is_ready => {
                    is_ready = true;
                    self.ready().await;
                }
                _ => {}
            }
        }
    }

    async fn ready(&self) {
        self.health.set_service_status(WHOLE_SERVER, ServingStatus::Serving).await;
        info!(listen = %self.listen, "ready");
    }

    /// Tells the health service that the process cannot do its work now.
    async fn not_ready(&self) {
        self.health.set_service_status(WHOLE_SERVER, ServingStatus::NotServing).await;
    }

    /// Serves `routes` until the process has to stop, and lets calls under way finish. A call that takes
    /// longer than a minute is dropped.
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
        let serving = Server::builder()
            .timeout(CALL)
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, stop);
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

#[cfg(test)]
mod tests {
    use super::*;

    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_server::Health as _;

    const SOON: Duration = Duration::from_secs(20);

    async fn says(
        process: &Process,
        expected: tonic_health::pb::health_check_response::ServingStatus,
    ) {
        let service =
            tonic_health::server::HealthService::from_health_reporter(process.health.clone());
        let asked = async {
            loop {
                let request = tonic::Request::new(HealthCheckRequest::default());
                let answer = service.check(request).await.unwrap().into_inner();
                if answer.status() == expected {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let said = tokio::time::timeout(SOON, asked).await;
        assert!(said.is_ok(), "never {}", expected.as_str_name());
    }

    #[tokio::test]
    async fn readiness_goes_down_while_something_is_stuck_and_comes_back() {
        use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
        let listen = "127.0.0.1:0".parse().unwrap();
        let process = Process::new("tested", CancellationToken::new(), SOON, listen).await;
        says(&process, NotServing).await;
        let pulse = Pulse::new();
        process.ready().await;
        let following = process.follow(&pulse, Duration::ZERO);
        let told = async {
            says(&process, Serving).await;
            let in_hand = pulse.begin("record");
            says(&process, NotServing).await;
            drop(in_hand);
            says(&process, Serving).await;
        };
        tokio::select! {
            () = following => unreachable!("it follows for ever"),
            () = told => {}
        }
    }
}

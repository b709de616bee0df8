//! Asking a running process for its health, as compose and other supervisors do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long a process may take to answer: less than the 3 s that the compose file gives the check.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the process that listens on `listen` whether it serves.
///
/// # Errors
/// When the process does not answer within two seconds, or says that it does not serve.
pub(crate) fn ask(listen: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let address = reachable(listen);
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .connect()
            .await
            .with_context(|| format!("nothing answers at {address}"))?;
        let request = HealthCheckRequest { service: String::new() };
        let status = HealthClient::new(channel).check(request).await?.into_inner().status();
        if status != ServingStatus::Serving {
            bail!("{address} answers, but is not ready: {}", status.as_str_name());
        }
        Ok(())
    })
}

/// The address to dial: a server that listens on every address is asked on the loopback one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

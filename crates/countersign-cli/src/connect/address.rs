//! The address of a gRPC service, and its refusals.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use tonic::Code;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// The address of a gRPC service: `http://host:port`, or `https` with a certificate that this
/// machine trusts.
#[derive(Clone)]
pub(crate) struct Address(Endpoint);

/// Longer than a service takes for any answer, and not longer than a person waits.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Address {
    /// Connects.
    ///
    /// # Errors
    /// When no service answers there.
    pub(crate) async fn connect(&self) -> anyhow::Result<Channel> {
        self.0.connect().await.with_context(|| format!("no service answers at {self}"))
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(text.to_owned()).map_err(|e| e.to_string())?;
        let endpoint = match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
            (Some("http"), Some(_)) => endpoint,
            (Some("https"), Some(_)) => endpoint
                .tls_config(ClientTlsConfig::new().with_native_roots())
                .map_err(|e| e.to_string())?,
            _ => return Err("use http://HOST:PORT or https://HOST:PORT".to_owned()),
        };
        Ok(Self(endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.uri().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether the service has said no: another try would get the same answer. Anything else may be the network, a
/// restart or a limit, and what was asked for may have been done.
pub(crate) fn is_definite(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::AlreadyExists
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

/// A gRPC status as an error for a person.
pub(crate) fn refused(status: &tonic::Status) -> anyhow::Error {
    match status.code() {
        Code::Unimplemented => anyhow::anyhow!(
            "the service does not know this call ({}): it is older than this program, upgrade it",
            status.message()
        ),
        code => anyhow::anyhow!("{} ({code:?})", status.message()),
    }
}

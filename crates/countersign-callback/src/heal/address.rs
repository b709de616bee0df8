//! Where an upstream is called, as the setting says it.

use std::fmt;
use std::str::FromStr;

use countersign_protocol::Name;
use thiserror::Error;
use tonic::transport::{ClientTlsConfig, Endpoint};

/// Where an upstream is called: `orders=http://orders:50051`.
///
/// `Debug` shows neither path nor credentials.
#[derive(Clone)]
pub struct UpstreamAddress {
    /// The upstream's name, as its checks say it.
    pub name: Name,
    pub(super) endpoint: Endpoint,
}

/// Why a text is not an [`UpstreamAddress`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is not an upstream: {why}; write NAME=http://HOST:PORT or NAME=https://HOST:PORT"
)]
pub struct InvalidUpstream {
    text: String,
    why: String,
}

impl UpstreamAddress {
    /// The address without path and credentials, which may be secret.
    pub(super) fn shown(&self) -> String {
        let uri = self.endpoint.uri();
        let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}", uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or(""))
    }
}

impl FromStr for UpstreamAddress {
    type Err = InvalidUpstream;

    fn from_str(text: &str) -> Result<Self, InvalidUpstream> {
        let invalid = |why: String| InvalidUpstream { text: text.to_owned(), why };
        let (name, address) =
            text.split_once('=').ok_or_else(|| invalid("it has no '='".to_owned()))?;
        let name = name.trim().parse().map_err(|e| invalid(format!("{e}")))?;
        let endpoint =
            Endpoint::from_shared(address.trim().to_owned()).map_err(|e| invalid(e.to_string()))?;
        let endpoint = match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
            (Some("http"), Some(_)) => endpoint,
            (Some("https"), Some(_)) => endpoint
                .tls_config(ClientTlsConfig::new().with_native_roots())
                .map_err(|e| invalid(e.to_string()))?,
            _ => return Err(invalid("its address is neither http:// nor https://".to_owned())),
        };
        Ok(Self { name, endpoint })
    }
}

impl fmt::Debug for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.shown())
    }
}

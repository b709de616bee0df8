//! An upstream that answers each request for a resend at once, and publishes nothing.

use anyhow::Result;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_server::{self, UpstreamServer};
use countersign_protocol::grpc::{RequestResendRequest, RequestResendResponse};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, async_trait};

/// The upstream listens until the program ends.
#[derive(Debug)]
pub(super) struct Upstream {
    url: String,
}

impl Upstream {
    pub(super) async fn start() -> Result<Self> {
        // Port 0: the kernel chooses a free one.
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = Server::builder().add_service(UpstreamServer::new(Republished));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { url })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

struct Republished;

#[async_trait]
impl upstream_server::Upstream for Republished {
    async fn request_resend(
        &self,
        _request: Request<RequestResendRequest>,
    ) -> Result<Response<RequestResendResponse>, Status> {
        let outcome = Outcome::Republished.into();
        Ok(Response::new(RequestResendResponse { outcome, ..RequestResendResponse::default() }))
    }
}

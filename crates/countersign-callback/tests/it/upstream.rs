//! An upstream that answers as a test has it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_server::{self, UpstreamServer};
use countersign_protocol::grpc::{RequestResendRequest, RequestResendResponse};
use countersign_testbed::{Port, SOON, eventually};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, transport::Server};

/// Where an upstream is, and what it was asked; the server itself can be down.
pub(crate) struct Upstream {
    port: Port,
    answers: Answers,
    asked: Arc<Mutex<Vec<RequestResendRequest>>>,
    server: Option<DropGuard>,
}

type Answers = Arc<Mutex<Arc<dyn Fn(&RequestResendRequest) -> Reply + Send + Sync>>>;

/// What it does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// In the name of the upstream and the database that are meant.
    Say(RequestResendResponse),
    /// In whatever name the response has.
    SayAsIs(RequestResendResponse),
    Fail(Status),
    /// Never.
    Hang,
    /// The first one after a while.
    After(Duration, RequestResendResponse),
    /// The first one when the test lets it, by cancelling the token.
    Once(CancellationToken, RequestResendResponse),
}

pub(crate) fn say(outcome: Outcome) -> Reply {
    Reply::Say(saying(outcome))
}

pub(crate) fn saying(outcome: Outcome) -> RequestResendResponse {
    RequestResendResponse {
        outcome: outcome.into(),
        reason: "so says the upstream".to_owned(),
        ..RequestResendResponse::default()
    }
}

impl Upstream {
    /// One that listens and always replies the same.
    pub(crate) async fn always(reply: Reply) -> Self {
        let mut upstream = Self::down(reply);
        upstream.listen().await;
        upstream
    }

    /// One that does not listen yet.
    pub(crate) fn down(reply: Reply) -> Self {
        let answers: Arc<dyn Fn(&RequestResendRequest) -> Reply + Send + Sync> =
            Arc::new(move |_| reply.clone());
        Self {
            port: Port::claim().unwrap(),
            answers: Arc::new(Mutex::new(answers)),
            asked: Arc::default(),
            server: None,
        }
    }

    /// From now on it replies so.
    pub(crate) fn reply(
        &self,
        reply: impl Fn(&RequestResendRequest) -> Reply + Send + Sync + 'static,
    ) {
        *self.answers.lock().unwrap() = Arc::new(reply);
    }

    pub(crate) async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address()).await.unwrap();
        let service =
            Service { answers: Arc::clone(&self.answers), asked: Arc::clone(&self.asked) };
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = Server::builder()
            .add_service(UpstreamServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(async move {
            tokio::select! {
                result = serving => result.unwrap(),
                () = stopped => {}
            }
        });
        self.server = Some(stop.drop_guard());
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    /// Everything it was asked, in order.
    pub(crate) fn asked(&self) -> Vec<RequestResendRequest> {
        self.asked.lock().unwrap().clone()
    }

    /// The attempts it was asked for, of one message.
    pub(crate) fn attempts(&self, id: MessageId) -> Vec<u32> {
        let id = id.to_string();
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.message_id == id).map(|asked| asked.attempt).collect()
    }

    /// Returns when it was asked for this attempt of the message.
    pub(crate) async fn is_asked(&self, id: MessageId, attempt: u32) -> RequestResendRequest {
        let text = id.to_string();
        eventually(&format!("attempt {attempt} of {id} is asked for"), SOON, async || {
            let asked = self.asked();
            let found = asked.iter().find(|a| a.message_id == text && a.attempt == attempt);
            found.cloned().ok_or(asked)
        })
        .await
    }
}

struct Service {
    answers: Answers,
    asked: Arc<Mutex<Vec<RequestResendRequest>>>,
}

#[tonic::async_trait]
impl upstream_server::Upstream for Service {
    async fn request_resend(
        &self,
        request: Request<RequestResendRequest>,
    ) -> Result<Response<RequestResendResponse>, Status> {
        assert!(request.metadata().contains_key("grpc-timeout"), "the deadline is told");
        let request = request.into_inner();
        let reply = Arc::clone(&*self.answers.lock().unwrap())(&request);
        let (upstream, database) = (request.upstream.clone(), request.database.clone());
        self.asked.lock().unwrap().push(request);
        let named = |response| RequestResendResponse { upstream, database, ..response };
        match reply {
            Reply::Say(response) => Ok(Response::new(named(response))),
            Reply::SayAsIs(response) => Ok(Response::new(response)),
            Reply::Fail(status) => Err(status),
            Reply::Hang => std::future::pending().await,
            Reply::After(delay, response) => {
                tokio::time::sleep(delay).await;
                Ok(Response::new(named(response)))
            }
            Reply::Once(let_go, response) => {
                let_go.cancelled().await;
                Ok(Response::new(named(response)))
            }
        }
    }
}

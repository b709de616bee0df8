//! The commands as they are typed, against a server that knows one message.

use countersign_protocol::grpc::callback_server::{Callback, CallbackServer};
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_server::{Upstream, UpstreamServer};
use countersign_protocol::grpc::{
    GetMessageRequest, GetMessageResponse, RequestResendRequest, RequestResendResponse,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::program::countersign;

const ID: &str = "01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88";

struct Double;

#[tonic::async_trait]
impl Callback for Double {
    async fn get_message(
        &self,
        request: Request<GetMessageRequest>,
    ) -> Result<Response<GetMessageResponse>, Status> {
        let message_id = request.into_inner().message_id;
        assert_eq!(message_id, ID);
        Ok(Response::new(GetMessageResponse {
            message_id,
            state: "parked".to_owned(),
            reason: "rejected by logistics: no such article".to_owned(),
            ..GetMessageResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl Upstream for Double {
    async fn request_resend(
        &self,
        request: Request<RequestResendRequest>,
    ) -> Result<Response<RequestResendResponse>, Status> {
        let request = request.into_inner();
        assert_eq!((request.message_id.as_str(), request.attempt), (ID, 0), "0: by hand");
        if request.reason == "refuse me" {
            return Err(Status::unavailable("not now"));
        }
        Ok(Response::new(RequestResendResponse {
            outcome: Outcome::Republished.into(),
            published_at_ms: 1_795_231_234_567,
            attempt: 4,
            ..RequestResendResponse::default()
        }))
    }
}

async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = Server::builder()
        .add_service(CallbackServer::new(Double))
        .add_service(UpstreamServer::new(Double))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    url
}

#[tokio::test]
async fn status_tells_a_person_and_a_script() {
    let url = serve().await;
    let (code, text, _) = countersign(&["status", ID, "--callback", &url]).await;
    assert_eq!(code, Some(0));
    assert!(text.starts_with(&format!("{ID}  parked\n  rejected by logistics")), "{text}");
    let (code, text, _) = countersign(&["status", ID, "--callback", &url, "--json"]).await;
    assert_eq!(code, Some(0));
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&told["state"], &told["history"]), (&json!("parked"), &json!([])));
}

#[tokio::test]
async fn ask_asks_by_hand_and_tells_the_outcome() {
    let url = serve().await;
    let (code, text, _) = countersign(&["ask", ID, "--upstream", &url]).await;
    assert_eq!(code, Some(0));
    assert_eq!(text, "REPUBLISHED\n  published 2026-11-21 03:20:34.567Z, as attempt 4\n");
    let (code, text, _) = countersign(&["--json", "ask", ID, "--upstream", &url]).await;
    assert_eq!(code, Some(0));
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&told["outcome"], &told["attempt"]), (&json!("REPUBLISHED"), &json!(4)));
}

#[tokio::test]
async fn no_answer_is_exit_code_1_and_a_wrong_command_line_64() {
    let url = serve().await;
    let refused = ["ask", ID, "--upstream", &url, "--reason", "refuse me"];
    let (code, _, why) = countersign(&refused).await;
    assert_eq!(code, Some(1));
    assert_eq!(why, "countersign: not now (Unavailable)\n");

    let (code, _, why) = countersign(&["status", ID, "--callback", "http://127.0.0.1:1"]).await;
    assert_eq!(code, Some(1));
    assert!(why.starts_with("countersign: nobody answers at http://127.0.0.1:1/: "), "{why}");

    for wrong in [&["status", "7"][..], &["status", ID, "--callback", "localhost"], &["asc", ID]] {
        assert_eq!(countersign(wrong).await.0, Some(64), "{wrong:?}");
    }
    let (code, text, _) = countersign(&["status", "--help"]).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("Example:") && text.contains("never_committed"), "{text}");
}

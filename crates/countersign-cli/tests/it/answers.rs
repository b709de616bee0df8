//! The commands as they are typed, against a server that knows one message.

use countersign_protocol::grpc::callback_server::{Callback, CallbackServer};
use countersign_protocol::grpc::list_consumers_response::Consumer;
use countersign_protocol::grpc::list_upstreams_response as listed;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_server::{Upstream, UpstreamServer};
use countersign_protocol::grpc::{
    GetMessageRequest, GetMessageResponse, ListConsumersRequest, ListConsumersResponse,
    ListOverdueRequest, ListOverdueResponse, ListUpstreamsRequest, ListUpstreamsResponse,
    OverdueMessage, RequestResendRequest, RequestResendResponse,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::program::{countersign, json as told};

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

    async fn list_overdue(
        &self,
        request: Request<ListOverdueRequest>,
    ) -> Result<Response<ListOverdueResponse>, Status> {
        let ListOverdueRequest { filter, page_size, page_token } = request.into_inner();
        assert_eq!(filter.unwrap().states, ["parked", "conflict"]);
        let first: u32 = page_token.parse().unwrap_or(0);
        let end = OVERDUE.min(first + page_size);
        let message = |n: u32| OverdueMessage { message_id: n.to_string(), ..Default::default() };
        Ok(Response::new(ListOverdueResponse {
            messages: (first..end).map(message).collect(),
            next_page_token: if end < OVERDUE { end.to_string() } else { String::new() },
        }))
    }

    async fn list_consumers(
        &self,
        _: Request<ListConsumersRequest>,
    ) -> Result<Response<ListConsumersResponse>, Status> {
        let consumer = |name: &str, state: &str, depth| Consumer {
            consumer: name.to_owned(),
            queue: format!("{name}.orders"),
            state: state.to_owned(),
            depth,
            ..Consumer::default()
        };
        let consumers =
            vec![consumer("billing", "no_progress", 12_345), consumer("logistics", "idle", -1)];
        Ok(Response::new(ListConsumersResponse { consumers }))
    }

    async fn list_upstreams(
        &self,
        _: Request<ListUpstreamsRequest>,
    ) -> Result<Response<ListUpstreamsResponse>, Status> {
        let orders = listed::Upstream {
            upstream: "orders".to_owned(),
            breaker: "closed".to_owned(),
            budget_per_second: 100.0,
            canaries_only: true,
            canaries: 5,
            ..listed::Upstream::default()
        };
        Ok(Response::new(ListUpstreamsResponse { upstreams: vec![orders] }))
    }
}

/// More than three pages.
const OVERDUE: u32 = 3_210;

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
    assert!(why.starts_with("countersign: no service answers at http://127.0.0.1:1/: "), "{why}");

    for wrong in [&["status", "7"][..], &["status", ID, "--callback", "localhost"], &["asc", ID]] {
        assert_eq!(countersign(wrong).await.0, Some(64), "{wrong:?}");
    }
    let (code, text, _) = countersign(&["status", "--help"]).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("Example:") && text.contains("never_committed"), "{text}");
}

#[tokio::test]
async fn a_list_pages_through_as_much_as_was_asked_for() {
    let url = serve().await;
    let overdue = ["overdue", "--state", "parked,conflict", "--callback", &url];
    for (more, expected, whole) in
        [(&["--all"][..], OVERDUE, true), (&["--limit", "2500"], 2_500, false), (&[], 100, false)]
    {
        let (code, list) = told(&[&overdue[..], more].concat()).await;
        let ids = list["messages"].as_array().unwrap().iter().map(|m| m["message_id"].clone());
        let all = (0..expected).map(|n| json!(n.to_string()));
        assert_eq!(code, Some(0));
        assert!(ids.eq(all), "each of the first {expected} once");
        assert_eq!(list["next_page_token"] == json!(""), whole);
    }
}

#[tokio::test]
async fn consumers_and_upstreams_are_told_with_an_exit_code() {
    let url = serve().await;
    let (code, text, _) = countersign(&["consumers", "--callback", &url]).await;
    assert_eq!(code, Some(1), "billing makes no progress");
    let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(row("billing").contains("no_progress") && row("billing").contains("12,345"), "{text}");
    assert!(row("logistics").contains(" ? "), "nobody knows its depth: {text}");
    let (code, list) = told(&["upstreams", "--callback", &url]).await;
    assert_eq!((code, &list["upstreams"][0]["canaries"]), (Some(0), &json!(5)));
}

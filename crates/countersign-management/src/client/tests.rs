//! The client against an API that answers as each test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

const CERTIFICATE: &[u8] = include_bytes!("../../tests/certificate/certificate.pem");
const KEY: &[u8] = include_bytes!("../../tests/certificate/key.pem");
/// Longer than any answer of these tests takes.
const LONG: Duration = Duration::from_secs(20);

/// Listens on a port of its own; each connection gets what `serve` gives it.
fn listen(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().flatten().for_each(serve));
    port
}

/// Answers each request with what `answer` makes of its first line and its `Authorization`.
fn converse(stream: impl Read + Write, answer: impl Fn(&str, &str) -> (u16, &'static str)) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut credentials, mut line) =
            (String::new(), String::new(), String::new());
        if stream.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        while stream.read_line(&mut line).unwrap_or(0) > 2 {
            if let Some(value) = line.strip_prefix("authorization: ") {
                value.trim().clone_into(&mut credentials);
            }
            line.clear();
        }
        let (status, body) = answer(&request, &credentials);
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\nDate: today\r\nContent-Length: {length}\r\n\r\n");
        let said = stream.get_mut().write_all(format!("{head}{body}").as_bytes());
        if said.and_then(|()| stream.get_mut().flush()).is_err() {
            return;
        }
    }
}

fn plain(port: u16) -> Management {
    Management::new(format!("http://me:secret@127.0.0.1:{port}").parse().unwrap(), LONG)
}

/// An API over TLS, with a certificate for `localhost`.
fn encrypted() -> u16 {
    let provider = Arc::new(ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::from_pem_slice(KEY).unwrap())
        .unwrap();
    let config = Arc::new(config);
    listen(move |tcp| {
        let session = ServerConnection::new(Arc::clone(&config)).unwrap();
        converse(StreamOwned::new(session, tcp), |_, _| (200, r#"{"messages": 7}"#));
    })
}

#[tokio::test]
async fn https_is_spoken_with_a_broker_whose_certificate_is_trusted() {
    let url = format!("https://me:secret@localhost:{}", encrypted());
    let trusted = vec![Certificate::from_pem(CERTIFICATE).unwrap()];
    let management = Management::trusting(url.parse().unwrap(), LONG, trusted);
    assert_eq!(management.messages("/", "orders").await.unwrap(), Some(7));
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_gets_no_password() {
    let url = format!("https://me:secret@localhost:{}", encrypted());
    let management = Management::new(url.parse().unwrap(), LONG);
    let error = management.messages("/", "orders").await.unwrap_err();
    assert!(matches!(error, Error::Away { .. }), "{error}");
    assert!(error.to_string().contains("ertificate"), "{error}");
}

#[tokio::test]
async fn the_password_is_sent_and_a_wrong_one_is_refused_without_being_shown() {
    let port = listen(|tcp| {
        converse(tcp, |_, credentials| match credentials {
            "Basic bWU6c2VjcmV0" => (200, r#"{"messages": 1}"#),
            _ => (401, r#"{"error":"not_authorized","reason":"Login failed"}"#),
        });
    });
    assert_eq!(plain(port).messages("/", "orders").await.unwrap(), Some(1));
    let url = format!("http://me:wrong@127.0.0.1:{port}").parse().unwrap();
    let error = Management::new(url, LONG).messages("/", "orders").await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: 401, .. }), "{error}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("Login failed") && text.contains("user me"), "{text}");
    assert!(!text.contains("wrong"), "{text}");
}

#[tokio::test]
async fn a_queue_that_is_gone_holds_nothing_and_one_that_is_not_counted_yet_is_unknown() {
    let port = listen(|tcp| {
        converse(tcp, |request, _| match request {
            _ if request.contains("/queues/%2F/new?") => (200, "{}"),
            _ if request.contains("/exchanges/%2F/amq%2Edirect?") => (200, "{}"),
            _ => (404, r#"{"error":"Object Not Found","reason":"Not Found"}"#),
        });
    });
    assert_eq!(plain(port).messages("/", "new").await.unwrap(), None);
    assert_eq!(plain(port).messages("/", "gone").await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_queue_of_a_vhost_that_is_not_there_is_not_called_empty() {
    let port = listen(|tcp| converse(tcp, |_, _| (404, "{}")));
    let error = plain(port).messages("elsewhere", "orders").await.unwrap_err();
    assert!(matches!(&error, Error::NoVhost { vhost, .. } if vhost == "elsewhere"), "{error}");
}

#[tokio::test]
async fn an_api_that_does_not_answer_is_given_up_after_the_deadline() {
    let port = listen(std::mem::forget);
    let deadline = Duration::from_millis(200);
    let url = format!("http://me:secret@127.0.0.1:{port}").parse().unwrap();
    let error = Management::new(url, deadline).messages("/", "orders").await.unwrap_err();
    assert!(matches!(error, Error::Away { .. }), "{error}");
    assert!(error.to_string().contains("timeout"), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn an_answer_tells_the_brokers_clock_and_an_odd_one_is_an_error() {
    let port = listen(|tcp| {
        converse(tcp, |request, _| match request {
            _ if request.contains("overview") => (200, r#"{"rabbitmq_version":"4.3.3"}"#),
            _ if request.contains("empty") => (204, ""),
            _ if request.contains("html") => (200, "<html>"),
            _ => (503, "later"),
        });
    });
    let management = plain(port);
    let answer = management.look(&["overview"], "").await.unwrap();
    assert_eq!(answer.date.as_deref(), Some("today"));
    assert_eq!(answer.found.unwrap()["rabbitmq_version"], "4.3.3");
    let put = management.call(Method::PUT, &["empty"], Some(serde_json::json!({}))).await;
    assert_eq!(put.unwrap(), Some(Value::Null));
    let error = management.get(&["html"]).await.unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
    let error = management.get(&["nodes"]).await.unwrap_err();
    assert!(matches!(error, Error::Status { status: 503, .. }), "{error}");
}

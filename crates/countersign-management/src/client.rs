//! Asking the management API.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, TlsConfig, TlsProvider};
use ureq::{Body, Error as Failure};

use crate::error::Error;
use crate::url::ManagementUrl;

pub use ureq::http::Method;

/// A client of one broker's management API. A clone shares its connections.
#[derive(Clone, Debug)]
pub struct Management {
    agent: Agent,
    url: ManagementUrl,
}

/// What the API answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The JSON that it sent, `null` when it sent none. `None` is "404: no such thing".
    pub found: Option<Value>,
    /// What the broker's clock showed, as the HTTP header `Date` writes it.
    pub date: Option<String>,
}

/// The figures of 200,000 queues; more is not RabbitMQ.
const LONGEST_ANSWER_BYTES: u64 = 256 << 20;
/// How much of an unexpected answer an error repeats.
const SHOWN_CHARACTERS: usize = 500;
/// Every vhost has it and nobody can delete it: it is there exactly if the vhost is. (Asking for the
/// vhost itself takes an administrator, reproduced on 3.10.8.)
const IN_EVERY_VHOST: &str = "amq.direct";

impl Management {
    /// A client of the API at `url`, whose answers may take up to `deadline`. Nothing is sent yet.
    #[must_use]
    pub fn new(url: ManagementUrl, deadline: Duration) -> Self {
        let authorities = match url.is_https() {
            true => rustls_native_certs::load_native_certs().certs,
            false => Vec::new(),
        };
        let authorities = authorities.iter().map(|der| Certificate::from_der(der).to_owned());
        Self::trusting(url, deadline, authorities.collect())
    }

    fn trusting(
        url: ManagementUrl,
        deadline: Duration,
        authorities: Vec<Certificate<'static>>,
    ) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(deadline));
        let config = if url.is_https() { config.tls_config(tls(authorities)) } else { config };
        Self { agent: config.build().new_agent(), url }
    }

    /// Where it asks.
    #[must_use]
    pub fn url(&self) -> &ManagementUrl {
        &self.url
    }

    /// How many messages a queue holds, ready or with a consumer, as of a little ago: the API counts
    /// every few seconds. 0 if there is no such queue, `None` if it has not been counted yet.
    ///
    /// # Errors
    /// When the API gives no such answer. That includes a vhost that the broker does not have: its
    /// queues are not known to be empty.
    pub async fn messages(&self, vhost: &str, queue: &str) -> Result<Option<u64>, Error> {
        let (this, vhost, queue) = (self.clone(), vhost.to_owned(), queue.to_owned());
        off_the_runtime(move || {
            let path = ["queues", &vhost, &queue];
            match this.get_blocking(&path, "columns=messages")?.found {
                Some(figures) => Ok(figures.get("messages").and_then(Value::as_u64)),
                None if this.has_vhost(&vhost)? => Ok(Some(0)),
                None => Err(Error::NoVhost { url: this.url.to_string(), vhost }),
            }
        })
        .await
    }

    fn has_vhost(&self, vhost: &str) -> Result<bool, Error> {
        let exchange = self.get_blocking(&["exchanges", vhost, IN_EVERY_VHOST], "columns=name")?;
        Ok(exchange.found.is_some())
    }

    /// Asks for something that may be missing. `path` is what follows `/api/`, its parts not yet
    /// percent-encoded.
    ///
    /// # Errors
    /// When the answer is neither a success nor 404.
    pub async fn get(&self, path: &[&str]) -> Result<Option<Value>, Error> {
        Ok(self.look(path, "").await?.found)
    }

    /// [`get`](Self::get) with a query (`columns=name,messages`, or empty), and with the time at
    /// which the broker answered.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn look(&self, path: &[&str], query: &str) -> Result<Answer, Error> {
        let query = query.to_owned();
        self.elsewhere(path, move |this, path| this.get_blocking(path, &query)).await
    }

    /// Sends a request. `None` is "404: no such thing".
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn call(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<Option<Value>, Error> {
        self.elsewhere(path, move |this, path| this.call_blocking(&method, path, body.as_ref()))
            .await
    }

    /// [`call`](Self::call), on this thread.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn call_blocking(
        &self,
        method: &Method,
        path: &[&str],
        body: Option<&Value>,
    ) -> Result<Option<Value>, Error> {
        Ok(self.ask(method, &self.url.of(path, ""), body)?.found)
    }

    fn get_blocking(&self, path: &[&str], query: &str) -> Result<Answer, Error> {
        self.ask(&Method::GET, &self.url.of(path, query), None)
    }

    async fn elsewhere<T: Send + 'static>(
        &self,
        path: &[&str],
        work: impl FnOnce(&Self, &[&str]) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        let path: Vec<String> = path.iter().map(|&part| part.to_owned()).collect();
        off_the_runtime(move || {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            work(&this, &path)
        })
        .await
    }

    fn ask(&self, method: &Method, uri: &str, body: Option<&Value>) -> Result<Answer, Error> {
        let request = format!("{method} {uri}");
        let mut answer = self
            .send(method, uri, body)
            .map_err(|cause| Error::Away { url: self.url.to_string(), cause: Box::new(cause) })?;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        let date = date.map(str::to_owned);
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(LONGEST_ANSWER_BYTES).read_to_string();
        let text = text
            .map_err(|why| Error::Unreadable { request: request.clone(), why: why.to_string() })?;
        let found =
            match status {
                404 => None,
                200..300 if text.is_empty() => Some(Value::Null),
                200..300 => Some(serde_json::from_str(&text).map_err(|why| Error::Unreadable {
                    request,
                    why: format!("not JSON: {why}"),
                })?),
                401 | 403 => {
                    return Err(Error::Refused {
                        url: self.url.to_string(),
                        user: self.url.user().to_owned(),
                        status,
                        reason: reason(&text),
                    });
                }
                _ => {
                    let body = text.chars().take(SHOWN_CHARACTERS).collect();
                    return Err(Error::Status { request, status, body });
                }
            };
        Ok(Answer { found, date })
    }

    fn send(
        &self,
        method: &Method,
        uri: &str,
        body: Option<&Value>,
    ) -> Result<Response<Body>, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("authorization", self.url.credentials())
            .header("content-type", "application/json");
        match body {
            Some(body) => self.agent.run(request.body(body.to_string())?),
            None => self.agent.run(request.body(())?),
        }
    }
}

/// What RabbitMQ says of a refusal.
fn reason(text: &str) -> String {
    let told: Option<Value> = serde_json::from_str(text).ok();
    let reason = told.as_ref().and_then(|told| told.get("reason")?.as_str());
    reason.unwrap_or("no reason given").to_owned()
}

fn tls(authorities: Vec<Certificate<'static>>) -> TlsConfig {
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(authorities.into())
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build()
}

/// The client blocks its thread: these must not be the runtime's.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and whoever waits goes with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests;

//! RabbitMQ's management HTTP API.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;
use ureq::http::{Method, Request};

const DEADLINE: Duration = Duration::from_secs(20);

/// A client of one broker's management API.
#[derive(Clone, Debug)]
pub struct Management {
    agent: ureq::Agent,
    base: String,
    user: String,
    password: String,
}

impl Management {
    /// A client for `http://127.0.0.1:<port>`. Nothing is sent yet.
    #[must_use]
    pub fn new(port: u16, user: &str, password: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(DEADLINE))
            .build();
        Self {
            agent: config.new_agent(),
            base: format!("http://127.0.0.1:{port}"),
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    /// Its address, with user and password.
    #[must_use]
    pub fn url(&self) -> String {
        let host = self.base.trim_start_matches("http://");
        format!("http://{}:{}@{host}", self.user, self.password)
    }

    /// Sends a request and waits, blocking the thread. `path` is what follows `/api/`, its parts
    /// not yet percent-encoded. `None` is "404: no such thing".
    ///
    /// # Errors
    /// If there is no answer within 20 s, or one that is neither 2xx nor 404.
    pub fn call_blocking(
        &self,
        method: &Method,
        path: &[&str],
        body: Option<&Value>,
    ) -> Result<Option<Value>> {
        let path: Vec<String> = path
            .iter()
            .map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string())
            .collect();
        let what = format!("{method} {}/api/{}", self.base, path.join("/"));
        let credentials = BASE64_STANDARD.encode(format!("{}:{}", self.user, self.password));
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/api/{}", self.base, path.join("/")))
            .header("authorization", format!("Basic {credentials}"))
            .header("content-type", "application/json");
        let answer = match body {
            Some(body) => self.agent.run(request.body(body.to_string())?),
            None => self.agent.run(request.body(())?),
        };
        let mut answer = answer.with_context(|| what.clone())?;
        let status = answer.status();
        let text = answer
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string()
            .with_context(|| what.clone())?;
        if status.as_u16() == 404 {
            return Ok(None);
        }
        if !status.is_success() {
            bail!("{what}: {status}: {text}");
        }
        if text.is_empty() {
            return Ok(Some(Value::Null));
        }
        serde_json::from_str(&text).map(Some).with_context(|| format!("{what}: not JSON: {text}"))
    }

    /// [`Self::call_blocking`], off the runtime's threads.
    ///
    /// # Errors
    /// As there.
    pub async fn call(
        &self,
        method: Method,
        path: &[&str],
        body: Option<impl Serialize>,
    ) -> Result<Option<Value>> {
        let body = body.map(serde_json::to_value).transpose()?;
        let path: Vec<String> = path.iter().map(|&part| part.to_owned()).collect();
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            this.call_blocking(&method, &path, body.as_ref())
        })
        .await
        .context("the call to the management API was cut off")?
    }

    /// Asks for something that may be missing.
    ///
    /// # Errors
    /// As [`Self::call_blocking`].
    pub async fn get(&self, path: &[&str]) -> Result<Option<Value>> {
        self.call(Method::GET, path, None::<Value>).await
    }
}

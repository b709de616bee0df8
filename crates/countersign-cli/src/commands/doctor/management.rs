//! What RabbitMQ's management API tells.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_protocol::Topology;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};
use time::PrimitiveDateTime;
use time::macros::format_description;
use ureq::http::Request;
use ureq::tls::{Certificate, TlsConfig, TlsProvider};

use super::broker::{Broker, Node};
use super::clocks::Clock;
use super::topology::actual::{ActualExchange, ActualQueue, ActualTopology};
use crate::terminal::clock::now_ms;

/// Where the management API is: `http://user:password@host:15672`, or `https` with a certificate that
/// this machine trusts, and with a path behind it if there is one. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ManagementUrl {
    base: String,
    user: String,
    password: String,
}

/// A client of it.
#[derive(Clone)]
pub(crate) struct Management {
    agent: ureq::Agent,
    url: ManagementUrl,
}

const TIMEOUT: Duration = Duration::from_secs(20);
const MOST_BYTES: u64 = 256 << 20;
const GUEST: &str = "guest";

impl FromStr for ManagementUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "use http://USER:PASSWORD@HOST:15672, or https".to_owned();
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or(usage.clone())?;
        if !["http", "https"].contains(&scheme) {
            return Err(usage);
        }
        let (who, place) =
            rest.rsplit_once('@').map_or((None, rest), |(who, place)| (Some(who), place));
        let place = place.trim_end_matches('/');
        if place.is_empty() || place.starts_with(':') {
            return Err(usage);
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = match who {
            None => (GUEST.to_owned(), GUEST.to_owned()),
            Some(who) => {
                let (user, password) = who.split_once(':').unwrap_or((who, ""));
                (decoded(user), decoded(password))
            }
        };
        Ok(Self { base: format!("{scheme}://{place}"), user, password })
    }
}

impl fmt::Display for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

impl fmt::Debug for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Management {
    /// Nothing is sent yet.
    pub(crate) fn new(url: ManagementUrl) -> Self {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT));
        let config = if url.base.starts_with("https:") { config.tls_config(tls()) } else { config };
        Self { agent: config.build().new_agent(), url }
    }

    /// The broker, and its clock.
    ///
    /// # Errors
    /// When it does not answer, or does not let this user look.
    pub(crate) async fn broker(&self) -> anyhow::Result<(Broker, Option<Clock>)> {
        let this = self.clone();
        off_the_runtime(move || {
            let before = now_ms();
            let (overview, date) = this.get(&["overview"], "")?;
            let clock = date.and_then(|date| clock(&date, before, now_ms()));
            let nodes = this.list(&["nodes"], "")?;
            let version = overview["rabbitmq_version"].as_str().unwrap_or("unknown").to_owned();
            Ok((Broker { version, nodes: nodes.iter().map(node).collect() }, clock))
        })
        .await
    }

    /// What stands in a vhost.
    ///
    /// # Errors
    /// When it does not answer, or does not let this user look.
    pub(crate) async fn queues(&self, vhost: &str) -> anyhow::Result<ActualTopology> {
        let (this, vhost) = (self.clone(), vhost.to_owned());
        off_the_runtime(move || {
            let columns = "?columns=name,type,durable,arguments,policy,operator_policy,effective_policy_definition,consumers,leader,members,online,messages_ready,messages_unacknowledged";
            let queues = this.list(&["queues", &vhost], columns)?;
            let queues = queues.iter().filter_map(|seen| Some((text(seen, "name")?, queue(seen))));
            Ok(ActualTopology { queues: queues.collect(), ..ActualTopology::default() })
        })
        .await
    }

    /// The exchanges of a topology, and what is bound to them.
    ///
    /// # Errors
    /// When it does not answer, or does not let this user look.
    pub(crate) async fn exchanges(
        &self,
        vhost: &str,
        topology: &Topology,
        mut actual: ActualTopology,
    ) -> anyhow::Result<ActualTopology> {
        let (this, vhost) = (self.clone(), vhost.to_owned());
        let names: Vec<String> = topology.exchanges.iter().map(|e| e.name.clone()).collect();
        off_the_runtime(move || {
            let policies = this.list(&["policies", &vhost], "")?;
            for name in names {
                let Some(seen) = this.find(&["exchanges", &vhost, &name])? else { continue };
                actual.exchanges.insert(name.clone(), exchange(&seen, &policies));
                for bound in this.bound(&vhost, &name)? {
                    if let (Some(key), Some(to)) =
                        (text(&bound, "routing_key"), text(&bound, "destination"))
                    {
                        actual.bindings.insert((name.clone(), key, to));
                    }
                }
            }
            Ok(actual)
        })
        .await
    }

    /// The keys with which queues are bound to an exchange.
    ///
    /// # Errors
    /// When it does not answer, or does not let this user look.
    pub(crate) async fn keys(&self, vhost: &str, exchange: &str) -> anyhow::Result<Vec<String>> {
        let (this, vhost, exchange) = (self.clone(), vhost.to_owned(), exchange.to_owned());
        off_the_runtime(move || {
            let bound = this.bound(&vhost, &exchange)?;
            Ok(bound.iter().filter_map(|bound| text(bound, "routing_key")).collect())
        })
        .await
    }

    fn bound(&self, vhost: &str, exchange: &str) -> anyhow::Result<Vec<Value>> {
        let found = self.find(&["exchanges", vhost, exchange, "bindings", "source"])?;
        Ok(found.map(array).unwrap_or_default())
    }

    fn list(&self, path: &[&str], query: &str) -> anyhow::Result<Vec<Value>> {
        Ok(array(self.get(path, query)?.0))
    }

    fn get(&self, path: &[&str], query: &str) -> anyhow::Result<(Value, Option<String>)> {
        let (found, date) = self.ask(path, query)?;
        Ok((found.with_context(|| format!("{} has no {}", self.url, path.join("/")))?, date))
    }

    fn find(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        Ok(self.ask(path, "")?.0)
    }

    /// The answer, if there is such a thing, and the time at which it was given.
    fn ask(&self, path: &[&str], query: &str) -> anyhow::Result<(Option<Value>, Option<String>)> {
        let parts: Vec<String> = path
            .iter()
            .map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string())
            .collect();
        let uri = format!("{}/api/{}{query}", self.url.base, parts.join("/"));
        let credentials =
            BASE64_STANDARD.encode(format!("{}:{}", self.url.user, self.url.password));
        let request = Request::builder()
            .uri(&uri)
            .header("authorization", format!("Basic {credentials}"))
            .body(())?;
        let mut answer = self.agent.run(request).with_context(|| {
            format!(
                "the management API does not answer at {}: is the plugin rabbitmq_management on?",
                self.url
            )
        })?;
        let date =
            answer.headers().get("date").and_then(|date| Some(date.to_str().ok()?.to_owned()));
        let status = answer.status().as_u16();
        match status {
            404 => return Ok((None, date)),
            401 | 403 => bail!(
                "the management API at {} does not let user {} look ({status}): give it the tag monitoring",
                self.url,
                self.url.user
            ),
            200..300 => {}
            _ => bail!("{uri}: {status}"),
        }
        let body = answer.body_mut().with_config().limit(MOST_BYTES).read_to_string();
        let body = body.with_context(|| uri.clone())?;
        Ok((Some(serde_json::from_str(&body).with_context(|| format!("{uri}: not JSON"))?), date))
    }
}

/// Trusts the system's certificate authorities.
fn tls() -> TlsConfig {
    let authorities = rustls_native_certs::load_native_certs().certs;
    let authorities = authorities.iter().map(|der| Certificate::from_der(der).to_owned());
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(authorities.collect::<Vec<_>>().into())
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("the call was cut off")?
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}

fn node(seen: &Value) -> Node {
    let is = |name: &str| seen.get(name).and_then(Value::as_bool).unwrap_or(false);
    let cut_off_from = seen.get("partitions").cloned().map(array).unwrap_or_default();
    Node {
        name: text(seen, "name").unwrap_or_default(),
        running: is("running"),
        memory_alarm: is("mem_alarm"),
        disk_alarm: is("disk_free_alarm"),
        cut_off_from: cut_off_from.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
    }
}

fn queue(seen: &Value) -> ActualQueue {
    // An empty object comes as an empty array.
    let object = |name: &str| match seen.get(name) {
        Some(Value::Object(fields)) => fields.clone(),
        _ => Map::new(),
    };
    let length = |name: &str| seen.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let number = |name: &str| seen.get(name).and_then(Value::as_u64).unwrap_or(0);
    let policies = ["policy", "operator_policy"].iter().filter_map(|name| text(seen, name));
    ActualQueue {
        kind: text(seen, "type").unwrap_or_default(),
        durable: seen.get("durable").and_then(Value::as_bool).unwrap_or(false),
        arguments: object("arguments"),
        policy: object("effective_policy_definition"),
        policies: policies.filter(|name| !name.is_empty()).collect(),
        consumers: number("consumers"),
        leader: text(seen, "leader"),
        members: length("members"),
        online: length("online"),
        ready: number("messages_ready"),
        unacked: number("messages_unacknowledged"),
    }
}

fn exchange(seen: &Value, policies: &[Value]) -> ActualExchange {
    let argument =
        seen.get("arguments").and_then(|arguments| text(arguments, "alternate-exchange"));
    let policy = text(seen, "policy").and_then(|name| {
        let policy = policies.iter().find(|policy| text(policy, "name").as_ref() == Some(&name))?;
        text(policy.get("definition")?, "alternate-exchange")
    });
    ActualExchange {
        kind: text(seen, "type").unwrap_or_default(),
        durable: seen.get("durable").and_then(Value::as_bool).unwrap_or(false),
        alternate: argument.or(policy),
    }
}

/// The broker's clock, which an answer tells in whole seconds.
fn clock(date: &str, before_ms: i64, after_ms: i64) -> Option<Clock> {
    const HALF_A_SECOND_MS: i64 = 500;
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let told = PrimitiveDateTime::parse(date, format).ok()?.assume_utc().unix_timestamp() * 1_000;
    let read_at = i64::midpoint(before_ms, after_ms);
    Some(Clock {
        whose: "the broker's clock".to_owned(),
        ahead_ms: told + HALF_A_SECOND_MS - read_at,
        unsure_ms: HALF_A_SECOND_MS + (after_ms - before_ms) / 2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown_without_its_password() {
        let url: ManagementUrl = "http://me:pa%40ss@rabbit:15672/".parse().unwrap();
        assert_eq!((url.user.as_str(), url.password.as_str()), ("me", "pa@ss"));
        assert_eq!(format!("{url} {url:?}"), "http://rabbit:15672 http://rabbit:15672");
        let url: ManagementUrl = "http://rabbit:15672/prefix".parse().unwrap();
        assert_eq!((url.user.as_str(), url.base.as_str()), ("guest", "http://rabbit:15672/prefix"));
        let url: ManagementUrl = "https://me:x@rabbit:15671".parse().unwrap();
        assert_eq!(url.to_string(), "https://rabbit:15671");
        for wrong in ["rabbit:15672", "amqp://rabbit", "http://", "http://me:secret@"] {
            let error = wrong.parse::<ManagementUrl>().unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_brokers_clock_is_read_to_the_second() {
        let told =
            clock("Sat, 21 Nov 2026 03:20:34 GMT", 1_795_231_234_000, 1_795_231_234_200).unwrap();
        assert_eq!((told.ahead_ms, told.unsure_ms), (400, 600));
        assert!(clock("yesterday", 0, 0).is_none());
    }
}

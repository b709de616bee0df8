//! RabbitMQ's management API: the only one that says what consumers hold.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use thiserror::Error;

/// Where the management API is: `http://user:password@host:15672`.
///
/// `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagementUrl {
    base: String,
    credentials: String,
}

/// Why a text is not a [`ManagementUrl`]. It does not repeat the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not an address like http://user:password@host:15672: {0}")]
pub struct InvalidManagementUrl(&'static str);

/// Asks it about the queues of one vhost.
#[derive(Clone, Debug)]
pub(crate) struct Management {
    agent: ureq::Agent,
    url: ManagementUrl,
    vhost: String,
}

/// The API is not on any message's way: whoever waits for it can wait for the next answer as well.
const DEADLINE: Duration = Duration::from_secs(5);
/// A queue's figures are a few hundred bytes.
const LONGEST_ANSWER: u64 = 64 * 1024;

#[derive(Deserialize)]
struct Figures {
    messages: Option<u64>,
}

impl Management {
    #[must_use]
    pub(crate) fn new(url: ManagementUrl, vhost: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(DEADLINE))
            .build();
        Self { agent: config.new_agent(), url, vhost: vhost.to_owned() }
    }

    /// How many messages a queue holds, ready or with a consumer, as of a little ago. `None` if that
    /// has not been counted yet.
    ///
    /// # Errors
    /// When there is no answer within 5 s, or none that says so. The text is for a person.
    pub(crate) async fn held(&self, queue: &str) -> Result<Option<u64>, String> {
        let (this, queue) = (self.clone(), queue.to_owned());
        tokio::task::spawn_blocking(move || this.held_blocking(&queue))
            .await
            .map_err(|_| "the call to the management API was cut off".to_owned())?
    }

    fn held_blocking(&self, queue: &str) -> Result<Option<u64>, String> {
        let part = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let path = format!(
            "{}/api/queues/{}/{}?columns=messages",
            self.url.base,
            part(&self.vhost),
            part(queue)
        );
        let says = |why: &dyn fmt::Display| format!("{}: {why}", self.url.base);
        let answer = self.agent.get(&path).header("authorization", &self.url.credentials).call();
        let mut answer = answer.map_err(|why| says(&why))?;
        match answer.status().as_u16() {
            // There is no such queue, so nothing is in it.
            404 => Ok(Some(0)),
            200 => {
                let body = answer.body_mut().with_config().limit(LONGEST_ANSWER);
                let figures: Figures = body.read_json().map_err(|why| says(&why))?;
                Ok(figures.messages)
            }
            401 | 403 => Err(says(
                &"refused: the user of COUNTERSIGN_MANAGEMENT_URL needs the tag `monitoring` and a right in the vhost",
            )),
            status => Err(says(&format!("status {status}"))),
        }
    }
}

impl FromStr for ManagementUrl {
    type Err = InvalidManagementUrl;

    fn from_str(text: &str) -> Result<Self, InvalidManagementUrl> {
        let rest = text
            .trim()
            .strip_prefix("http://")
            .ok_or(InvalidManagementUrl("it does not begin with http://"))?;
        let rest = rest.trim_end_matches('/');
        let (who, host) = rest.rsplit_once('@').unwrap_or(("guest:guest", rest));
        if host.is_empty() || host.starts_with(':') {
            return Err(InvalidManagementUrl("it names no host"));
        }
        let (user, password) =
            who.split_once(':').ok_or(InvalidManagementUrl("it has a user without a password"))?;
        let decoded = |text: &str| {
            percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| {
                InvalidManagementUrl("special characters of the password are written as %XX")
            })
        };
        let who = format!("{}:{}", decoded(user)?, decoded(password)?);
        Ok(Self {
            base: format!("http://{host}"),
            credentials: format!("Basic {}", BASE64_STANDARD.encode(who)),
        })
    }
}

impl fmt::Debug for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_its_password_is_not_shown() {
        let url: ManagementUrl = "http://monitor:p%40ss:w@rabbit:15672/".parse().unwrap();
        assert_eq!(url.base, "http://rabbit:15672");
        assert_eq!(url.credentials, format!("Basic {}", BASE64_STANDARD.encode("monitor:p@ss:w")));
        assert_eq!(format!("{url:?}"), "http://rabbit:15672");
        let guest: ManagementUrl = "http://localhost:15672".parse().unwrap();
        assert_eq!(guest.credentials, format!("Basic {}", BASE64_STANDARD.encode("guest:guest")));
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for text in ["", "localhost:15672", "https://a:secret@b", "http://", "http://secret@"] {
            let error = text.parse::<ManagementUrl>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

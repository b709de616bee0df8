//! Where the management API is.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::{ParseError, Url};

/// Where the management API is: `http://user:password@host:15672`, or `https` with a certificate
/// that this machine trusts, and with a path behind it if a reverse proxy adds one.
///
/// User and password are `guest` unless given. Neither `Display` nor `Debug` shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagementUrl {
    base: String,
    user: String,
    password: String,
}

/// Why a text is not a [`ManagementUrl`]. It does not repeat the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not an address like http://user:password@host:15672 or https://…: {0}")]
pub struct InvalidManagementUrl(&'static str);

/// RabbitMQ's own default user, which only a broker on the same machine lets in.
const GUEST: &str = "guest";

impl ManagementUrl {
    /// As whom the API is asked.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The address of something below `/api/`; the parts are not yet percent-encoded.
    pub(crate) fn of(&self, path: &[&str], query: &str) -> String {
        let encoded = |part: &&str| {
            percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        let path: Vec<String> = path.iter().map(encoded).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        format!("{}/api/{}{query}", self.base, path.join("/"))
    }

    pub(crate) fn is_https(&self) -> bool {
        self.base.starts_with("https:")
    }

    /// What the `Authorization` header says.
    pub(crate) fn credentials(&self) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

impl FromStr for ManagementUrl {
    type Err = InvalidManagementUrl;

    fn from_str(text: &str) -> Result<Self, InvalidManagementUrl> {
        const SPECIAL: InvalidManagementUrl =
            InvalidManagementUrl("special characters of the password are written as %XX");
        const NO_HOST: InvalidManagementUrl = InvalidManagementUrl("it names no host");
        let url = Url::parse(text.trim()).map_err(|why| match why {
            ParseError::EmptyHost => NO_HOST,
            ParseError::InvalidPort => SPECIAL,
            _ => InvalidManagementUrl("a part of it cannot be read"),
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidManagementUrl("it begins with neither http:// nor https://"));
        }
        // What follows a `/`, `?` or `#` within the password is taken for the end of the host.
        if url.path().contains('@') || url.query().is_some() || url.fragment().is_some() {
            return Err(SPECIAL);
        }
        let decoded =
            |text: &str| percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned);
        let (user, password) = match (url.username(), url.password()) {
            ("", None) => (GUEST, GUEST),
            (_, None) => return Err(InvalidManagementUrl("it has a user without a password")),
            (user, Some(password)) => (user, password),
        };
        let user = decoded(user).map_err(|_| SPECIAL)?;
        let password = decoded(password).map_err(|_| SPECIAL)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(NO_HOST)?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let path = url.path().trim_end_matches('/');
        Ok(Self { base: format!("{}://{host}{port}{path}", url.scheme()), user, password })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_its_password_is_not_shown() {
        let url: ManagementUrl = "http://monitor:p%40ss:w@rabbit:15672/".parse().unwrap();
        assert_eq!((url.user(), url.password.as_str()), ("monitor", "p@ss:w"));
        assert_eq!(
            url.credentials(),
            format!("Basic {}", BASE64_STANDARD.encode("monitor:p@ss:w"))
        );
        assert_eq!(format!("{url} {url:?}"), "http://rabbit:15672 http://rabbit:15672");
        let url: ManagementUrl = "https://me:x@rabbit:15671".parse().unwrap();
        assert_eq!((url.to_string().as_str(), url.is_https()), ("https://rabbit:15671", true));
        let url: ManagementUrl = "http://me:x@[2001:db8::7]:15672".parse().unwrap();
        assert_eq!(url.to_string(), "http://[2001:db8::7]:15672");
    }

    #[test]
    fn guest_is_asked_as_unless_a_user_is_named() {
        let url: ManagementUrl = "http://localhost:15672".parse().unwrap();
        assert_eq!(url.credentials(), format!("Basic {}", BASE64_STANDARD.encode("guest:guest")));
    }

    #[test]
    fn parts_of_a_path_are_encoded_behind_a_prefix() {
        let url: ManagementUrl = "http://rabbit:15672/prefix/".parse().unwrap();
        assert_eq!(url.to_string(), "http://rabbit:15672/prefix");
        assert_eq!(
            url.of(&["queues", "/", "a b"], "columns=messages"),
            "http://rabbit:15672/prefix/api/queues/%2F/a%20b?columns=messages"
        );
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for text in [
            "",
            "localhost:15672",
            "rabbit:15672",
            "amqp://a:secret@rabbit",
            "http://",
            "http://secret@",
            "http://me:secret@",
            "http://secret@rabbit",
            "http://me:12/secret@rabbit",
            "http://me:secret/x@rabbit",
            "http://me:secret@rabbit?columns=messages",
        ] {
            let error = text.parse::<ManagementUrl>().expect_err(text);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }
}

//! The broker's address, read from a URL.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};
use thiserror::Error;

/// A broker's address: `amqp://user:password@host:port/vhost`, or `amqps://` for TLS.
///
/// User and password are `guest` unless given, the port 5672 or 5671, the vhost `/` (also after a
/// closing slash). Of the query, `heartbeat` (seconds, 10 unless given), `frame_max` (bytes) and
/// `channel_max` count. TLS trusts the system's certificate authorities.
///
/// Neither `Display` nor `Debug` shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(AMQPUri);

/// Why a text is not an [`Address`]. The error does not repeat the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not an address like amqp://user:password@host:5672/vhost or amqps://…: {0}")]
pub struct InvalidAddress(&'static str);

/// The heartbeat that this client asks for, in seconds. The client notices a dead peer after twice
/// this time. A much shorter one would cut off a broker that only pauses under load.
const HEARTBEAT_S: u16 = 10;
/// Brokers expect room for a message's properties in one frame; below this, publishing with
/// headers fails (<https://www.rabbitmq.com/docs/configure>).
const SMALLEST_FRAME_MAX: u32 = 8_192;

impl Address {
    /// The vhost that the address names.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }

    pub(crate) fn uri(&self) -> AMQPUri {
        self.0.clone()
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        let rest = text
            .strip_prefix("amqp://")
            .or_else(|| text.strip_prefix("amqps://"))
            .ok_or(InvalidAddress("it begins with neither amqp:// nor amqps://"))?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if host.is_empty() || host.starts_with(':') {
            return Err(InvalidAddress("it names no host"));
        }
        let mut uri: AMQPUri = text.parse().map_err(|_| {
            InvalidAddress(
                "a part of it cannot be read; special characters of the password are written as %XX",
            )
        })?;
        // The parser takes an IPv6 address for no host at all, which would mean localhost.
        if let Some((v6, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            v6.clone_into(&mut uri.authority.host);
        }
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        if uri.vhost.len() > usize::from(u8::MAX) {
            return Err(InvalidAddress("the vhost is longer than 255 bytes"));
        }
        if uri.query.frame_max.is_some_and(|bytes| bytes != 0 && bytes < SMALLEST_FRAME_MAX) {
            return Err(InvalidAddress("frame_max is under 8192"));
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        Ok(Self(uri))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.0;
        let scheme = match scheme {
            AMQPScheme::AMQP => "amqp",
            AMQPScheme::AMQPS => "amqps",
        };
        let user = &authority.userinfo.username;
        let port = authority.port;
        if authority.host.contains(':') {
            write!(f, "{scheme}://{user}:***@[{}]:{port}", authority.host)?;
        } else {
            write!(f, "{scheme}://{user}:***@{}:{port}", authority.host)?;
        }
        if vhost != "/" {
            write!(f, "/{vhost}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Address>().unwrap().to_string()
    }

    #[test]
    fn what_is_not_given_has_the_usual_value() {
        let address: Address = "amqp://rabbit".parse().unwrap();
        assert_eq!(address.to_string(), "amqp://guest:***@rabbit:5672");
        assert_eq!(address.vhost(), "/");
        assert_eq!(address.uri().query.heartbeat, Some(10));
        assert_eq!(address.uri().authority.userinfo.password, "guest");
        assert_eq!(shown("amqps://rabbit"), "amqps://guest:***@rabbit:5671");
    }

    #[test]
    fn what_is_given_counts() {
        let address: Address =
            "amqp://me:pa%40ss@rabbit:1234/orders%2Ftest?heartbeat=3".parse().unwrap();
        assert_eq!(address.to_string(), "amqp://me:***@rabbit:1234/orders/test");
        assert_eq!(address.uri().query.heartbeat, Some(3));
        assert_eq!(address.uri().authority.userinfo.password, "pa@ss");
    }

    #[test]
    fn a_closing_slash_still_means_the_default_vhost() {
        assert_eq!("amqp://rabbit/".parse::<Address>().unwrap().uri().vhost, "/");
        assert_eq!("amqp://rabbit/%2f".parse::<Address>().unwrap().uri().vhost, "/");
    }

    #[test]
    fn an_ipv6_host_is_not_taken_for_localhost() {
        let address: Address = "amqp://me:secret@[2001:db8::7]:5672/".parse().unwrap();
        assert_eq!(address.uri().authority.host, "2001:db8::7");
        assert_eq!(address.to_string(), "amqp://me:***@[2001:db8::7]:5672");
    }

    #[test]
    fn no_password_is_ever_shown() {
        let address: Address = "amqp://me:hunter2@rabbit".parse().unwrap();
        assert!(!format!("{address} {address:?} {address:#?}").contains("hunter2"));
        for wrong in [
            "amqp://me:hunter2@rabbit:notaport",
            "amqp://me:hunter2@",
            "http://me:hunter2@rabbit",
            "amqp://me:hunter2@rabbit?frame_max=4096",
            "amqp://me:hunter2@rabbit?heartbeat=soon",
        ] {
            let error = wrong.parse::<Address>().expect_err(wrong);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn other_schemes_are_refused() {
        for wrong in ["", "rabbit:5672", "http://rabbit", "AMQ://rabbit", "amqp:rabbit", "amqp://"]
        {
            assert!(wrong.parse::<Address>().is_err(), "{wrong:?}");
        }
    }
}

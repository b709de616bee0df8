//! TCP ports that no other test takes.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use anyhow::{Result, bail};

/// The range lies below the one from which Linux takes ports for outgoing connections (from 32768
/// on): a server that is down for a while, with clients that keep connecting, must find its port
/// free when it comes back. (In Linux's range, a client that dials a port without a listener can
/// even get the very same port for its own end and so connect to itself.)
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 1_000;

/// A TCP port on 127.0.0.1 that is reserved for this value's life.
///
/// Every other user of this type, in any process, is kept off the port: the value holds the UDP
/// port of the same number, which no other program wants. Unlike a lock file, that ends with the
/// process and leaves nothing behind. Programs without this type are kept off only as far as the
/// port was free when it was chosen.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// Finds a free port.
    ///
    /// # Errors
    /// If no port is free.
    pub fn claim() -> Result<Self> {
        for _ in 0..TRIES {
            let number = fastrand::u16(RANGE);
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _claim: claim });
            }
        }
        bail!("no free port between {} and {} after {TRIES} tries", RANGE.start, RANGE.end)
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_listen_on_a_claimed_port_on_every_address() {
        // RabbitMQ tries its distribution port this way before it starts.
        let port = Port::claim().unwrap();
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.number())).unwrap();
    }

    #[test]
    fn nobody_else_can_claim_a_port_until_it_is_given_back() {
        let port = Port::claim().unwrap();
        let number = port.number();
        UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).unwrap_err();
        drop(port);
        UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
    }
}

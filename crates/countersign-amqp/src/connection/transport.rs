//! Opening a connection, and cutting it in whatever state it is.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use rustls::crypto::{CryptoProvider, ring};
use socket2::{SockRef, Socket};
use tokio::time::timeout;

use crate::connection::address::Address;
use crate::error::{Error, within};

/// How long the broker may take from the first packet to the end of the AMQP handshake. A node that
/// starts accepts the socket some seconds before it answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Opens a connection that `hangup` can cut.
pub(crate) async fn connect(
    address: &Address,
    name: &str,
    hangup: &Hangup,
) -> Result<Connection, Error> {
    let options = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "countersign".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let line = Arc::clone(&hangup.0);
    let connecting = Connection::connector(
        address.uri(),
        lapin::runtime::default_runtime()?,
        async move |uri, runtime| {
            let AMQPUri { scheme, authority, .. } = uri;
            let dialling = async {
                let addresses = runtime.to_socket_addrs((authority.host.clone(), authority.port));
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                if let AsyncTcpStream::Plain(tcp) = &stream {
                    hold(&line, SockRef::from(tcp.get_ref()).try_clone()?)?;
                }
                match scheme {
                    AMQPScheme::AMQP => Ok(stream),
                    AMQPScheme::AMQPS => {
                        choose_cryptography();
                        let config = OwnedTLSConfig::default();
                        stream.into_tls(&authority.host, config.as_ref()).await
                    }
                }
            };
            // The client runs this on a thread of its own, and dropping `connecting` does not end
            // that thread.
            let dialled = timeout(CONNECT_TIMEOUT, dialling).await;
            Ok(dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?)
        },
        options,
    );
    within(CONNECT_TIMEOUT, "connecting", connecting).await
}

/// Cuts a connection when it is dropped, whatever the client does with the connection.
///
/// The client's own thread waits for the answer to a handshake or to a close as long as the socket
/// is open. Without the cut, a broker that hangs would cost a thread and a socket with each attempt
/// to reconnect.
#[derive(Debug, Default)]
pub(crate) struct Hangup(Arc<Mutex<Line>>);

#[derive(Debug, Default)]
enum Line {
    #[default]
    Idle,
    Open(Socket),
    HungUp,
}

fn hold(line: &Mutex<Line>, socket: Socket) -> io::Result<()> {
    let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*line, Line::HungUp) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    *line = Line::Open(socket);
    Ok(())
}

impl Drop for Hangup {
    fn drop(&mut self) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Line::Open(socket) = std::mem::replace(&mut *line, Line::HungUp) {
            // The shutdown fails if the peer was faster.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// rustls panics if the process links several cryptography providers and has chosen none.
fn choose_cryptography() {
    if CryptoProvider::get_default().is_none() {
        // The call fails if another thread has chosen a provider first, which is as good.
        let _ = ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_broker_that_takes_the_connection_and_says_nothing_is_let_go() {
        for scheme in ["amqp", "amqps"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let address: Address = format!("{scheme}://127.0.0.1:{port}").parse().unwrap();
            let attempt = tokio::spawn(async move {
                let hangup = Hangup::default();
                connect(&address, "let go", &hangup).await.map(drop)
            });
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut said = vec![0; 1_024];
            assert_ne!(peer.read(&mut said).await.unwrap(), 0);
            attempt.abort();
            let end = timeout(LONG, peer.read(&mut said)).await.expect("an end");
            assert!(matches!(end, Ok(0) | Err(_)), "{scheme}: {end:?}");
        }
        // The client's threads see the end of the connection as well.
        #[cfg(target_os = "linux")]
        timeout(LONG, async {
            while client_threads() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the client's threads end");
    }

    #[cfg(target_os = "linux")]
    fn client_threads() -> usize {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            threads.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("lapin-io-loop")).count()
    }
}

//! A TCP proxy that misbehaves on demand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

const CHUNK: usize = 16 * 1024;

/// A TCP proxy in front of one address. It forwards until told otherwise, and ends with its value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    conduct: watch::Sender<Conduct>,
    target: watch::Sender<SocketAddr>,
    counts: Arc<Counts>,
    task: AbortHandle,
}

/// Connections are numbered in the order in which the proxy accepts them.
#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    carried: AtomicU64,
    /// What these connections send to the target is lost: all up to this number.
    lost_to_target: AtomicU64,
    /// What the target sends to these connections is lost.
    lost_from_target: AtomicU64,
}

/// The direction in which a [`Proxy`] loses bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The target hears nothing more.
    ToTarget,
    /// The client hears nothing more.
    FromTarget,
    /// Neither hears anything more.
    Both,
}

/// How a [`Proxy`] treats the bytes that pass through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Forward each chunk this much later.
    Forward {
        /// The delay, in each direction.
        after: Duration,
    },
    /// Forward nothing, close nothing: both sides see a silent peer. The proxy takes new
    /// connections and stays as silent.
    Silence,
    /// Close every connection, and new ones at once.
    Cut,
}

impl Proxy {
    /// Starts a proxy in front of `target`, on this runtime.
    ///
    /// # Errors
    /// If the proxy cannot listen.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("the proxy cannot listen")?;
        let address = listener.local_addr()?;
        let (conduct, seen) = watch::channel(Conduct::Forward { after: Duration::ZERO });
        let counts = Arc::new(Counts::default());
        let (target, led_to) = watch::channel(target);
        let task = tokio::spawn(serve(listener, led_to, seen, Arc::clone(&counts))).abort_handle();
        Ok(Self { address, conduct, target, counts, task })
    }

    /// Starts a proxy in front of the server that a URL names. Returns the URL by way of the proxy, too.
    ///
    /// # Errors
    /// If the URL is not `scheme://user:password@address:port/path`, or the proxy cannot listen.
    pub async fn before(url: &str) -> Result<(Self, String)> {
        let parts = url.split_once('@').and_then(|(before, after)| {
            let (address, path) = after.split_once('/')?;
            Some((before, address, path))
        });
        let (before, address, path) = parts.with_context(|| format!("no address in {url}"))?;
        let proxy = Self::start(address.parse()?).await?;
        let url = format!("{before}@{}/{path}", proxy.address());
        Ok((proxy, url))
    }

    /// The address on which the proxy listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections the proxy has carried through to its target, in all its life.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.counts.carried.load(Ordering::Relaxed)
    }

    /// Sets the treatment of all connections, old and new, from now on.
    pub fn conduct(&self, conduct: Conduct) {
        self.conduct.send_replace(conduct);
    }

    /// Leads new connections to another target, as a balancer does; those that there are stay where they are.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Loses the connections of this moment for ever: what goes this way over them is taken and thrown
    /// away, and their end is not told either. So each side's TCP has its bytes acknowledged, as by a
    /// machine in the middle that has forgotten the connection. New connections are treated as usual.
    pub fn lose(&self, way: Way) {
        let accepted = self.counts.accepted.load(Ordering::SeqCst);
        if way != Way::FromTarget {
            self.counts.lost_to_target.store(accepted, Ordering::SeqCst);
        }
        if way != Way::ToTarget {
            self.counts.lost_from_target.store(accepted, Ordering::SeqCst);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    target: watch::Receiver<SocketAddr>,
    conduct: watch::Receiver<Conduct>,
    counts: Arc<Counts>,
) {
    // Dropping the set ends every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                let target = *target.borrow();
                connections.spawn(connect(client, target, conduct.clone(), Arc::clone(&counts)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(
    mut client: TcpStream,
    target: SocketAddr,
    mut conduct: watch::Receiver<Conduct>,
    counts: Arc<Counts>,
) {
    let number = counts.accepted.fetch_add(1, Ordering::SeqCst);
    let mut cut = conduct.clone();
    let both = async {
        if pass(&mut conduct).await.is_none() {
            return;
        }
        let Ok(mut server) = TcpStream::connect(target).await else { return };
        counts.carried.fetch_add(1, Ordering::Relaxed);
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::join!(
            pump(from_client, to_server, conduct.clone(), || {
                number < counts.lost_to_target.load(Ordering::SeqCst)
            }),
            pump(from_server, to_client, conduct, || {
                number < counts.lost_from_target.load(Ordering::SeqCst)
            })
        );
    };
    tokio::select! {
        () = both => {}
        _ = cut.wait_for(|conduct| *conduct == Conduct::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut conduct: watch::Receiver<Conduct>,
    is_lost: impl Fn() -> bool,
) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let Some(after) = pass(&mut conduct).await else { return };
        tokio::time::sleep(after).await;
        if is_lost() {
            continue;
        }
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
    // The end of a stream is forwarded like its bytes.
    if pass(&mut conduct).await.is_some() && !is_lost() {
        let _ = to.shutdown().await;
    }
}

/// Waits until forwarding is allowed; returns the delay, or `None` when the proxy is gone.
async fn pass(conduct: &mut watch::Receiver<Conduct>) -> Option<Duration> {
    let forward =
        conduct.wait_for(|conduct| matches!(conduct, Conduct::Forward { .. })).await.ok()?;
    match *forward {
        Conduct::Forward { after } => Some(after),
        Conduct::Silence | Conduct::Cut => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_MOMENT: Duration = Duration::from_millis(200);
    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn it_forwards_delays_falls_silent_and_cuts() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(say(&mut client, b"one").await.unwrap(), *b"one");

        proxy.conduct(Conduct::Forward { after: A_MOMENT });
        let asked = tokio::time::Instant::now();
        assert_eq!(say(&mut client, b"two").await.unwrap(), *b"two");
        assert!(asked.elapsed() >= 2 * A_MOMENT, "once in each direction");

        proxy.conduct(Conduct::Silence);
        client.write_all(b"six").await.unwrap();
        let mut answer = [0; 3];
        assert!(tokio::time::timeout(A_MOMENT, client.read_exact(&mut answer)).await.is_err());
        proxy.conduct(Conduct::Forward { after: Duration::ZERO });
        tokio::time::timeout(SOON, client.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"six", "nothing was lost meanwhile");

        proxy.conduct(Conduct::Cut);
        assert!(!matches!(
            tokio::time::timeout(SOON, client.read(&mut answer)).await.unwrap(),
            Ok(1..)
        ));
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(say(&mut client, b"new").await.is_err());

        proxy.conduct(Conduct::Forward { after: Duration::ZERO });
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(say(&mut client, b"ten").await.unwrap(), *b"ten");
        assert_eq!(proxy.carried(), 2, "the one that was cut at once did not get through");
    }

    #[tokio::test]
    async fn what_is_lost_stays_lost_and_only_for_the_connections_of_that_moment() {
        for way in [Way::ToTarget, Way::FromTarget, Way::Both] {
            let proxy = Proxy::start(echo().await).await.unwrap();
            let mut lost = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(say(&mut lost, b"one").await.unwrap(), *b"one");
            proxy.lose(way);
            let mut new = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(say(&mut new, b"two").await.unwrap(), *b"two", "{way:?}");
            lost.write_all(b"six").await.unwrap();
            lost.shutdown().await.unwrap();
            let mut answer = [0; 3];
            let read = tokio::time::timeout(A_MOMENT, lost.read_exact(&mut answer)).await;
            // The end that the target never hears of is not answered either.
            assert!(way == Way::FromTarget || read.is_err(), "{way:?}: {read:?}");
            assert_ne!(&answer, b"six", "{way:?}");
        }
    }

    async fn say(client: &mut TcpStream, what: &[u8; 3]) -> std::io::Result<[u8; 3]> {
        client.write_all(what).await?;
        let mut answer = [0; 3];
        tokio::time::timeout(SOON, client.read_exact(&mut answer))
            .await
            .expect("an answer or an end")?;
        Ok(answer)
    }

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = peer.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }
}

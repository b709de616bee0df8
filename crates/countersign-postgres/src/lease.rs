//! A connection of a pool for a while, which a silent server cannot keep.

use std::io;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Error, Postgres};
use tokio::runtime::Handle;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// How long a caller waits for a connection of a pool whose own limit may be longer: sqlx's default
/// is 30 s.
const ACQUIRE: Duration = Duration::from_secs(10);
/// How long a connection may take on its way back into the pool, where sqlx sends the open rollback
/// and waits for all answers. sqlx 0.9.0 bounds neither, and holds the place in the pool meanwhile.
const RELEASE: Duration = Duration::from_secs(5);

const ONLY_DROP: &str = "only dropping the lease takes the connection";

/// A connection of a pool. When it is dropped, the connection returns to the pool, is closed, or is
/// thrown away without another word to the server.
pub(crate) struct Lease {
    connection: Option<PoolConnection<Postgres>>,
    pool: PgPool,
    then: Then,
}

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Returns,
    Closes,
    /// The server was silent, so nothing more is awaited from it. The place in the pool is free at
    /// once.
    IsCut,
}

impl Lease {
    pub(crate) async fn take(pool: &PgPool) -> Result<Self, Error> {
        match timeout(ACQUIRE, pool.acquire()).await.unwrap_or(Err(Error::PoolTimedOut)) {
            Ok(connection) => {
                Ok(Self { connection: Some(connection), pool: pool.clone(), then: Then::Returns })
            }
            Err(Error::PoolTimedOut) => {
                drop_idle(pool);
                Err(Error::PoolTimedOut)
            }
            Err(error) => Err(error),
        }
    }

    /// The connection for one call, whose answer goes through [`answered`](Self::answered).
    ///
    /// # Errors
    /// When the connection is cut.
    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, Error> {
        match (&mut self.connection, self.then) {
            (Some(connection), Then::Returns | Then::Closes) => Ok(connection),
            _ => Err(silent()),
        }
    }

    /// The connection for code that is not ours, whose calls no limit bounds.
    pub(crate) fn unbounded(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(ONLY_DROP)
    }

    pub(crate) fn seen(&self) -> &PgConnection {
        self.connection.as_ref().expect(ONLY_DROP)
    }

    /// A call's answer. When there was none in time, the connection is cut.
    ///
    /// All idle connections of the pool go with it: they lead to the same host, and to open one costs
    /// milliseconds. So a host that is gone costs one call its limit, not one for each connection.
    pub(crate) fn answered<T>(
        &mut self,
        answer: Result<Result<T, Error>, Elapsed>,
    ) -> Result<T, Error> {
        answer.unwrap_or_else(|Elapsed { .. }| {
            self.then = Then::IsCut;
            drop_idle(&self.pool);
            Err(silent())
        })
    }

    /// Has the connection thrown away.
    pub(crate) fn cut(&mut self) {
        self.then = Then::IsCut;
    }

    /// Has the connection closed instead of returned.
    pub(crate) fn close(&mut self) {
        if self.then == Then::Returns {
            self.then = Then::Closes;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        match (self.then, Handle::try_current()) {
            (Then::Returns, Ok(runtime)) => {
                // Dropping this future frees the place in the pool and the socket.
                let returning = connection.return_to_pool();
                runtime.spawn(async move { drop(timeout(RELEASE, returning).await) });
            }
            // sqlx bounds this by 5 s.
            (Then::Closes, Ok(_)) => connection.close_on_drop(),
            (Then::IsCut, _) | (_, Err(_)) => drop(connection.detach()),
        }
    }
}

/// Throws the pool's idle connections away. A pool that is merely busy has none.
fn drop_idle(pool: &PgPool) {
    while let Some(idle) = pool.try_acquire() {
        drop(idle.detach());
    }
}

fn silent() -> Error {
    Error::Io(io::Error::new(
        io::ErrorKind::TimedOut,
        "the database is silent: the connection is given up",
    ))
}

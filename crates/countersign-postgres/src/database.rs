//! A database, each call to which has an end.

use std::time::Duration;

use sqlx::Error;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::time::timeout;

/// How long a statement, a `BEGIN`, a `COMMIT` or a `ROLLBACK` may take. It is longer than the
/// [`statement_timeout`](crate::PoolSettings::statement_timeout), so that a server that lives speaks
/// first: only a silent one reaches this limit.
const CALL: Duration = Duration::from_secs(15);

/// How long the pool may take to close: sqlx waits for every place in it.
const CLOSE: Duration = Duration::from_secs(5);

/// A pool of connections, each call to which ends within a limit, also when the server is gone
/// without a word.
///
/// Such a server closes nothing: nothing comes from it, and TCP has nothing to send again. A call
/// then fails with [`sqlx::Error::Io`] (`TimedOut`) after 15 s, its connection is thrown away, and its place in
/// the pool is free. To sqlx's functions `&Database` is what `&PgPool` is.
///
/// Three things stay outside of the limit: what user code does on a connection of
/// [`Transaction::for_user`](crate::Transaction::for_user), what it does with the pool by itself,
/// and sqlx's own upkeep of a pool with `min_connections`.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    limit: Duration,
    /// What the server's limit is set to in transactions, when it is not the pool's.
    statement_timeout: Option<Duration>,
}

impl From<PgPool> for Database {
    fn from(pool: PgPool) -> Self {
        Self { pool, limit: CALL, statement_timeout: None }
    }
}

impl From<&PgPool> for Database {
    fn from(pool: &PgPool) -> Self {
        Self::from(pool.clone())
    }
}

impl Database {
    /// The same database with another limit of each call. In its transactions, the server has two
    /// thirds of it for each statement, so that it speaks first.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self { pool: self.pool.clone(), limit, statement_timeout: Some(limit * 2 / 3) }
    }

    /// The same database by one connection that does not count in the pool: for a look while other code
    /// may hold all of the pool's.
    #[must_use]
    pub fn apart(&self) -> Self {
        let options = self.pool.connect_options().as_ref().clone();
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        Self { pool, ..self.clone() }
    }

    /// The same database by connections of its own, on which the server ends each statement after
    /// `statement_timeout`: for callers whose number nobody bounds.
    #[must_use]
    pub fn for_others(&self, connections: u32, statement_timeout: Duration) -> Self {
        let limit = statement_timeout.as_millis().to_string();
        let options = self.pool.connect_options().as_ref().clone();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(statement_timeout)
            .connect_lazy_with(options.options([("statement_timeout", limit)]));
        Self { pool, ..self.clone() }
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// When the server does not give one.
    pub async fn answers(&self) -> Result<(), Error> {
        sqlx::raw_sql("SELECT 1").execute(self).await.map(drop)
    }

    /// Closes the pool, when the transactions under way have ended, or after 5 s.
    pub async fn close(&self) {
        drop(timeout(CLOSE, self.pool.close()).await);
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// What a transaction begins with.
    pub(crate) fn begin(&self) -> String {
        let Some(limit) = self.statement_timeout else { return "BEGIN;".to_owned() };
        format!("BEGIN;SET LOCAL statement_timeout = {};", limit.as_millis())
    }
}

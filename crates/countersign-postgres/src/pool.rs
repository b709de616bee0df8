//! A pool of connections to a server that may not be there yet.

use std::time::Duration;

use countersign_retry::Retry;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

use crate::url::DatabaseUrl;

/// A pool's name, size and time limits.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// The client's name that Postgres shows in `pg_stat_activity`.
    pub application_name: String,
    /// The most connections open at once. Too few: callers wait for each other. Too many: Postgres
    /// slows down well before its own `max_connections` (100 by default, for all its clients).
    /// Default: 10.
    pub max_connections: u32,
    /// How long a caller waits for a free connection before it gets an error. Default: 5 s.
    pub acquire_timeout: Duration,
    /// After how long Postgres ends a transaction that sits idle. The limit bounds how long a stuck
    /// process can hold locks. Default: 60 s.
    pub idle_in_transaction_timeout: Duration,
    /// After how long Postgres ends a statement, its wait for locks included. The client gives the
    /// connection up after 15 s: with a longer limit here, a slow statement looks like a silent server.
    /// Default: 10 s.
    pub statement_timeout: Duration,
}

impl PoolSettings {
    /// The defaults, with this application name.
    #[must_use]
    pub fn new(application_name: &str) -> Self {
        Self {
            application_name: application_name.to_owned(),
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            idle_in_transaction_timeout: Duration::from_secs(60),
            statement_timeout: Duration::from_secs(10),
        }
    }
}

/// A connection that was used more recently than this counts as alive: a ping would cost every
/// transaction a round trip.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How long the server may take to accept and authenticate. One that is well takes milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that was idle may take for a sign of life. One that is well takes
/// milliseconds; a silent one is closed, and a new one opened in its place, within the same
/// `acquire_timeout`.
const PING: Duration = Duration::from_secs(2);

/// Opens a pool and waits for the server for as long as it takes. Meanwhile the log names the
/// server at growing intervals.
///
/// # Cancel safety
/// The future can be dropped at any time.
pub async fn connect(url: &DatabaseUrl, settings: PoolSettings) -> PgPool {
    let options = options(url, &settings);
    wait_for_server(url, &options).await;
    PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, idle| {
            Box::pin(async move {
                Ok(idle.idle_for < TRUSTED_IDLE
                    || matches!(timeout(PING, connection.ping()).await, Ok(Ok(()))))
            })
        })
        .connect_lazy_with(options)
}

/// Opens one connection at the first try, for a person who waits for the answer. No statement on
/// the connection takes longer than 10 s.
///
/// # Errors
/// When the server does not answer within 10 s, or refuses the client.
///
/// # Cancel safety
/// The future can be dropped at any time.
pub async fn connect_once(
    url: &DatabaseUrl,
    application_name: &str,
) -> Result<PgConnection, sqlx::Error> {
    let limit = CONNECT_TIMEOUT.as_millis().to_string();
    let options =
        url.options().application_name(application_name).options([("statement_timeout", limit)]);
    // Dropping a connection that is being opened leaves nothing behind.
    match timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(opened) => opened,
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

fn options(url: &DatabaseUrl, settings: &PoolSettings) -> PgConnectOptions {
    let idle = settings.idle_in_transaction_timeout.as_millis().to_string();
    let statement = settings.statement_timeout.as_millis().to_string();
    url.options().application_name(&settings.application_name).options([
        ("idle_in_transaction_session_timeout", idle.as_str()),
        ("statement_timeout", statement.as_str()),
        // The server's side of a link that is gone without a word: after half a minute it ends the
        // session, with its locks. Postgres ignores the four on Unix sockets.
        ("tcp_keepalives_idle", "15"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "30000"),
        // For statements that take a millisecond, Postgres's compiler costs 20 (measured on 500,000
        // overdue rows: 20 ms instead of 0.25).
        ("jit", "off"),
    ])
}

async fn wait_for_server(url: &DatabaseUrl, options: &PgConnectOptions) {
    let mut retry = Retry::new(format!("connect to the database {url}"));
    loop {
        // Dropping a connection that is being opened leaves nothing behind.
        let problem = match timeout(CONNECT_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => {
                drop(connection.close().await);
                return retry.worked();
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
        };
        tokio::time::sleep(retry.failed(&problem)).await;
    }
}

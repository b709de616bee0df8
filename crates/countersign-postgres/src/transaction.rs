//! A transaction that cannot leak.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgDatabaseError, PgSeverity, PgTransactionManager};
use sqlx::{AssertSqlSafe, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use thiserror::Error;
use tokio::time::timeout;

use crate::database::Database;
use crate::lease::Lease;

/// A transaction on a connection of its own.
///
/// Three things are different from sqlx's transaction. [`open`](Self::open) can be cancelled: in sqlx
/// 0.9.0 a cancelled `begin` leaves an open transaction in the pool, and later writes on that
/// connection vanish. [`commit`](Self::commit) does not mistake a rollback for a commit. And each
/// call ends within the [`Database`]'s limit: to sqlx's functions `&mut Transaction` is what
/// `&mut PgConnection` is.
///
/// # Cancel safety
/// Every future of this type and of its connection can be dropped at any time: the transaction is
/// then rolled back, except that a dropped `commit` may have committed.
#[must_use = "dropped without `commit`, a transaction is rolled back"]
pub struct Transaction {
    pub(crate) lease: Lease,
    pub(crate) limit: Duration,
    /// Whether sqlx knows if the connection is in a transaction. If it does not, the connection
    /// must not return to the pool.
    is_known: bool,
}

/// Why a transaction was not, or may not have been, committed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// Nothing of the transaction took effect.
    #[error("the transaction was rolled back")]
    NotCommitted(#[source] sqlx::Error),
    /// The transaction may be committed or not: the connection broke at the wrong moment, or a
    /// statement inside the transaction ended it by itself.
    #[error("whether the transaction was committed is unknown")]
    Unknown(#[source] sqlx::Error),
}

/// `in_failed_sql_transaction`
const FAILED_TRANSACTION: &str = "25P02";
/// `idle_in_transaction_session_timeout`: the server ended the session while it waited for a
/// statement.
const IDLE_TOO_LONG: &str = "25P03";
/// `no_active_sql_transaction`
const NO_TRANSACTION: &str = "25P01";

impl Transaction {
    /// Begins a transaction and runs `statement` (may be empty) in the same round trip.
    ///
    /// `statement` has no parameters: write values into it only if they cannot contain a quote,
    /// such as ids and numbers. It may be several statements, separated by semicolons, beginning
    /// for example with `SET TRANSACTION ISOLATION LEVEL …`. The number of rows it affected is not
    /// known; to claim a key, let the insert fail and ask
    /// [`is_duplicate_key`](crate::is_duplicate_key).
    ///
    /// # Errors
    /// When the pool has no connection in time, or `statement` failed; there is no transaction
    /// then.
    pub async fn open(database: &Database, statement: &str) -> Result<Self, sqlx::Error> {
        let (lease, limit) = (Lease::take(database.pool()).await?, database.limit());
        let mut transaction = Self { lease, limit, is_known: false };
        let sql = AssertSqlSafe(format!("{}{statement}", database.begin())).into_sql_str();
        let beginning = PgTransactionManager::begin(transaction.lease.connection()?, Some(sql));
        let begun = timeout(limit, beginning).await;
        let begun = transaction.lease.answered(begun);
        transaction.is_known = match &begun {
            Ok(()) => true,
            // The server is well and waits for the end of a transaction that, to sqlx, never began.
            Err(error) if is_error_of_statement(error) => {
                sqlx::raw_sql("ROLLBACK").execute(&mut transaction).await.is_ok()
            }
            Err(_) => false,
        };
        begun.map(|()| transaction)
    }

    /// The connection itself, for code that is not ours. No limit bounds what that code does with it.
    ///
    /// A nested `BEGIN` (`sqlx::Connection::begin`) is a savepoint, as usual.
    pub fn for_user(&mut self) -> &mut PgConnection {
        self.lease.unbounded()
    }

    /// The connection itself, to look at.
    #[must_use]
    pub fn as_user(&self) -> &PgConnection {
        self.lease.seen()
    }

    /// Commits the transaction.
    ///
    /// Postgres answers the `COMMIT` of a transaction in which a statement failed with a `ROLLBACK`
    /// that looks like success. So a `SELECT 1`, which fails in such a transaction, goes along in
    /// the same round trip.
    ///
    /// # Errors
    /// When the transaction was not committed, or when that is unknown: see [`CommitError`].
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction may have been committed or not.
    pub async fn commit(mut self) -> Result<(), CommitError> {
        // `AND CHAIN`, because sqlx counts itself in a transaction until it sends a COMMIT or a
        // ROLLBACK of its own. The chained transaction gives sqlx one to roll back, with the round
        // trip that it makes whenever a connection returns to the pool. `AND CHAIN` also exposes a
        // `COMMIT` that was sent inside the transaction: without a transaction to chain, it is an
        // error.
        let sql = "SELECT 1;COMMIT AND CHAIN";
        let Err(error) = sqlx::raw_sql(sql).execute(&mut self).await else { return Ok(()) };
        match crate::sqlstate(&error).as_deref() {
            Some(FAILED_TRANSACTION | IDLE_TOO_LONG) => Err(CommitError::NotCommitted(error)),
            Some(NO_TRANSACTION) => {
                self.give_sqlx_something_to_roll_back().await;
                Err(CommitError::Unknown(error))
            }
            _ if is_error_of_statement(&error) => {
                self.give_sqlx_something_to_roll_back().await;
                Err(CommitError::NotCommitted(error))
            }
            _ => Err(CommitError::Unknown(error)),
        }
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// When the connection was lost; the server then rolls back by itself, perhaps a little later.
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction is rolled back all the same.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        let rolling_back = PgTransactionManager::rollback(self.lease.connection()?);
        let rolled_back = timeout(self.limit, rolling_back).await;
        self.lease.answered(rolled_back)
    }

    /// Throws the connection away, without another word to a server that has lost the transaction.
    pub fn abandon(mut self) {
        self.lease.cut();
    }

    /// Begins a transaction for sqlx to roll back, when the server has none any more. A ROLLBACK
    /// without a transaction would be a warning, in the server's log and in ours.
    async fn give_sqlx_something_to_roll_back(&mut self) {
        if let Err(error) = sqlx::raw_sql("BEGIN").execute(&mut *self).await {
            tracing::debug!(%error, "the connection was lost after the end of a transaction");
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        match self.lease.connection() {
            Ok(connection) if self.is_known => queue_rollback(connection),
            _ => self.lease.close(),
        }
    }
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transaction")
    }
}

/// Whether the server refused one statement and lives on. An error that ends the session says
/// nothing about the statements before it. With synchronous replication, for example, a commit that
/// waits for its standby when the server shuts down has been made.
fn is_error_of_statement(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else { return false };
    let ends_the_session = matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
    let is_about_the_connection = error.code().starts_with("08") || error.code() == "40003";
    !ends_the_session && !is_about_the_connection
}

/// Queues a `ROLLBACK`, which sqlx sends when the connection returns to the pool, after the
/// statement that the connection is in the middle of. A connection on which the rollback fails does
/// not return. After the end of a transaction this does nothing.
fn queue_rollback(connection: &mut PgConnection) {
    // sqlx counts savepoints as transactions within one, so they end first.
    while PgTransactionManager::get_transaction_depth(connection) > 0 {
        PgTransactionManager::start_rollback(connection);
    }
}

//! Migrations that several processes may start at once, against a server that may go away.

use std::time::Duration;

use countersign_retry::Retry;
use sqlx::PgPool;
use sqlx::migrate::{MigrateError, Migrator};
use tokio::time::timeout;
use tracing::info;

use crate::trouble::{Trouble, sqlstate, trouble};

/// The migrations of an SDK. They live in schema `countersign` and have a table of their own (such
/// as `countersign._producer_migrations`) that says which are applied. So the SDK's and the
/// service's migrations do not take each other for missing.
#[must_use]
pub fn sdk_migrator(mut migrations: Migrator, table: &'static str) -> Migrator {
    migrations.create_schema("countersign");
    migrations.dangerous_set_table_name(table);
    migrations
}

/// How long a migration waits for a table's lock: every later statement on the table waits behind it.
/// After that, the migration is tried again. A statement of a migration may rewrite a table, so the
/// pool's limit of seconds does not hold for it.
const TIMEOUTS: &str = "SET lock_timeout = '2s'; SET statement_timeout = '5min'";
/// How long one try may take. A migration is the one thing that may take minutes; a silent server
/// holds it up no longer than this.
const TRY: Duration = Duration::from_secs(10 * 60);

/// Applies the migrations that are not applied yet. Of several processes that start at once, one
/// applies them and the others wait. When the server goes away meanwhile, the function waits for
/// it.
///
/// # Errors
/// When a migration fails or was changed after it was applied.
///
/// # Cancel safety
/// The future can be dropped at any time: each migration is a transaction.
pub async fn migrate(pool: &PgPool, mut migrator: Migrator) -> Result<(), MigrateError> {
    // A newer release may have applied further ones: migrations are only added, and leave what older
    // releases use, so that old and new processes run side by side.
    migrator.set_ignore_missing(true);
    let mut retry = Retry::new("apply migrations");
    loop {
        let applied = timeout(TRY, apply(pool, &migrator)).await;
        match applied.unwrap_or_else(|_| Err(MigrateError::Execute(sqlx::Error::PoolTimedOut))) {
            Ok(()) => {
                retry.worked();
                info!(table = %migrator.table_name, "migrations are applied");
                return Ok(());
            }
            Err(error) if is_worth_another_try(&error) => {
                tokio::time::sleep(retry.failed(&error)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn apply(pool: &PgPool, migrator: &Migrator) -> Result<(), MigrateError> {
    let mut connection = pool.acquire().await.map_err(MigrateError::Execute)?;
    // The migrator's lock belongs to the session and outlives an error, so the session must end,
    // too.
    connection.close_on_drop();
    sqlx::raw_sql(TIMEOUTS).execute(&mut *connection).await.map_err(MigrateError::Execute)?;
    migrator.run_direct(None, &mut *connection, false).await
}

fn is_worth_another_try(error: &MigrateError) -> bool {
    /// The error codes of `CREATE … IF NOT EXISTS` in two sessions at once: the second may find a
    /// duplicate key in a catalog, or the table itself.
    const RACES: [&str; 4] = ["23505", "42P06", "42P07", "42710"];
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    trouble(error) == Trouble::Again
        || sqlstate(error).is_some_and(|code| RACES.contains(&code.as_str()))
}

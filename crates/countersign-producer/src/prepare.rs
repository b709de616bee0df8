//! The tables that have to be in the database before the first message.

use std::time::Duration;

use countersign_postgres::{Database, Partitions, migrate, sdk_migrator};
use countersign_protocol::DatabaseId;
use sqlx::PgPool;
use sqlx::migrate::MigrateError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::sql;

/// Creates or updates schema `countersign`, and keeps its partitions in the background until
/// `shutdown`. Returns the database's identity, for
/// [`ProducerSettings::database`](crate::ProducerSettings::database).
///
/// The table keeps ids for `retention` ([`ProducerSettings::retention`](crate::ProducerSettings)).
/// Any number of processes may call this function at once. Call it within a Tokio runtime.
///
/// # Errors
/// When a migration or making partitions fails. When the database is away while migrating, the
/// function waits for it.
pub async fn prepare(
    pool: &PgPool,
    retention: Duration,
    shutdown: CancellationToken,
) -> Result<DatabaseId, MigrateError> {
    let migrations = sdk_migrator(
        sqlx::migrate!("../../migrations/producer"),
        "countersign._producer_migrations",
    );
    migrate(pool, migrations).await?;
    let store = Database::from(pool);
    let database = sql::identity(&store).await?;
    let partitions = Partitions::new(sql::ENLISTED, retention);
    let places = partitions.maintain(&store).await?;
    let (sender, _) = watch::channel(places);
    tokio::spawn(partitions.keep(store, shutdown, sender));
    Ok(database)
}

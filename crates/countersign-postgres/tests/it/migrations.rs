//! Migrations of several owners, in several processes, at once.

use countersign_postgres::{migrate, sdk_migrator};
use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use crate::stage::{Stage, pool};

fn migration(version: i64, sql: &'static str) -> Migration {
    let kind = MigrationType::Simple;
    Migration::new(version, "made for the test".into(), kind, sql.into_sql_str(), false)
}

fn of_service() -> Migrator {
    Migrator::with_migrations(vec![migration(1, "CREATE TABLE orders (id int)")])
}

fn of_producer() -> Migrator {
    let first = migration(1, "CREATE TABLE countersign.enlisted (id int)");
    let second = migration(2, "INSERT INTO countersign.enlisted VALUES (1)");
    sdk_migrator(Migrator::with_migrations(vec![first, second]), "countersign._producer_migrations")
}

fn of_consumer() -> Migrator {
    let first = migration(1, "CREATE TABLE countersign.inbox (id int)");
    sdk_migrator(Migrator::with_migrations(vec![first]), "countersign._consumer_migrations")
}

#[tokio::test]
async fn a_service_that_is_upstream_and_downstream_starts_in_many_processes_at_once() {
    let stage = Stage::new(1).await;
    let starts = (0..6).map(|_| async {
        let pool = pool(&stage.database, 2).await;
        for migrator in [of_service(), of_producer(), of_consumer()] {
            migrate(&pool, migrator).await.unwrap();
        }
    });
    futures_util::future::join_all(starts).await;
    let once: i64 = sqlx::query_scalar("SELECT count(*) FROM countersign.enlisted")
        .fetch_one(&stage.outside)
        .await
        .unwrap();
    assert_eq!(once, 1, "each migration is applied once");
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT schemaname || '.' || tablename FROM pg_tables
         WHERE tablename LIKE '%migrations' ORDER BY 1",
    )
    .fetch_all(&stage.outside)
    .await
    .unwrap();
    assert_eq!(
        tables,
        [
            "countersign._consumer_migrations",
            "countersign._producer_migrations",
            "public._sqlx_migrations"
        ]
    );
}

#[tokio::test]
async fn an_older_release_starts_against_a_newer_schema() {
    let stage = Stage::new(1).await;
    let newer = vec![
        migration(1, "CREATE TABLE orders (id int)"),
        migration(9999, "ALTER TABLE orders ADD more text"),
    ];
    migrate(&pool(&stage.database, 1).await, Migrator::with_migrations(newer)).await.unwrap();
    migrate(&pool(&stage.database, 1).await, of_service()).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_waits_for_a_lock_lets_others_go_first() {
    let stage = Stage::new(1).await;
    migrate(&pool(&stage.database, 1).await, of_service()).await.unwrap();
    let mut reader = stage.outside.begin().await.unwrap();
    sqlx::query("SELECT FROM orders").execute(&mut *reader).await.unwrap();
    let next = vec![
        migration(1, "CREATE TABLE orders (id int)"),
        migration(2, "ALTER TABLE orders ADD more text"),
    ];
    let migrating = pool(&stage.database, 1).await;
    let migrating = tokio::spawn(async move {
        migrate(&migrating, Migrator::with_migrations(next)).await.unwrap();
    });
    // Whatever comes later waits behind it, for 2 s at most, and then the migration is tried again.
    for _ in 0..3 {
        let later = sqlx::query("SELECT FROM orders").execute(&stage.outside);
        tokio::time::timeout(std::time::Duration::from_secs(30), later).await.unwrap().unwrap();
    }
    assert!(!migrating.is_finished());
    reader.rollback().await.unwrap();
    migrating.await.unwrap();
}

#[tokio::test]
async fn a_migration_that_fails_is_an_error_and_holds_nobody_else_up() {
    let stage = Stage::new(1).await;
    let broken = Migrator::with_migrations(vec![migration(1, "CREATE TABLE oops (")]);
    let error = migrate(&pool(&stage.database, 1).await, broken).await.unwrap_err();
    assert!(matches!(error, MigrateError::ExecuteMigration(..)), "{error:?}");
    // The migrator's lock is free again.
    migrate(&pool(&stage.database, 1).await, of_service()).await.unwrap();
}

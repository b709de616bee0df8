//! A database with one table, a pool on it, and a look from outside.

use std::time::Duration;

use countersign_postgres::{Database as Store, PoolSettings, connect};
use countersign_testbed::{Database, database, eventually};
use sqlx::{AssertSqlSafe, PgPool};

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    /// The pool that the test works with.
    pub(crate) pool: Store,
    /// A connection of another session.
    pub(crate) outside: PgPool,
    pub(crate) database: Database,
}

impl Stage {
    pub(crate) async fn new(max_connections: u32) -> Self {
        let database = database().await;
        let outside = database.pool().await.unwrap();
        sqlx::raw_sql(
            "CREATE TABLE note (id bigint PRIMARY KEY, parent bigint, CONSTRAINT note_parent
             FOREIGN KEY (parent) REFERENCES note DEFERRABLE INITIALLY DEFERRED)",
        )
        .execute(&outside)
        .await
        .unwrap();
        let pool = pool(&database, max_connections).await.into();
        Self { pool, outside, database }
    }

    pub(crate) async fn note(&self, id: i64) {
        sqlx::query("INSERT INTO note VALUES ($1)").bind(id).execute(&self.pool).await.unwrap();
    }

    /// The committed rows.
    pub(crate) async fn notes(&self) -> Vec<i64> {
        sqlx::query_scalar("SELECT id FROM note ORDER BY id")
            .fetch_all(&self.outside)
            .await
            .unwrap()
    }

    /// Waits until no connection of the pool is in a transaction.
    pub(crate) async fn nothing_is_open(&self) {
        eventually("no session is in a transaction", SOON, async || {
            let open: Vec<String> = sqlx::query_scalar(
                "SELECT state || ': ' || query FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'tested'
                 AND state <> 'idle'",
            )
            .fetch_all(&self.outside)
            .await
            .unwrap();
            if open.is_empty() { Ok(()) } else { Err(open) }
        })
        .await;
    }

    pub(crate) async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.outside).await.unwrap();
    }
}

pub(crate) async fn pool(database: &Database, max_connections: u32) -> PgPool {
    let mut settings = PoolSettings::new("tested");
    settings.max_connections = max_connections;
    connect(&database.url().parse().unwrap(), settings).await
}

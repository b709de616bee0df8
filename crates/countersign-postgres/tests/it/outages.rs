//! Servers that have not started yet, or are gone.

use countersign_postgres::{
    Database, PoolSettings, Transaction, Trouble, connect, migrate, trouble,
};
use countersign_testbed::{Postgres, PostgresSettings, eventually};
use sqlx::migrate::Migrator;

use crate::stage::SOON;

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for_and_one_that_comes_back_is_used_again() {
    let mut postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let url = postgres.address().url("postgres").parse().unwrap();
    postgres.stop().await.unwrap();

    let connecting = tokio::spawn(async move {
        let pool = connect(&url, PoolSettings::new("tested")).await;
        migrate(&pool, Migrator::with_migrations(Vec::new())).await.unwrap();
        Database::from(pool)
    });
    postgres.restart().await.unwrap();
    let pool = tokio::time::timeout(SOON, connecting).await.unwrap().unwrap();
    Transaction::open(&pool, "").await.unwrap().commit().await.unwrap();

    postgres.kill().await.unwrap();
    let error = Transaction::open(&pool, "").await.unwrap_err();
    assert_eq!(trouble(&error), Trouble::Again, "{error:?}");
    postgres.restart().await.unwrap();
    eventually("transactions work again", SOON, async || {
        Transaction::open(&pool, "")
            .await?
            .commit()
            .await
            .map_err(|e| sqlx::Error::Protocol(format!("{e:?}")))
    })
    .await;
}

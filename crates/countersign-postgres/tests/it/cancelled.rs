//! Futures that are dropped halfway leave nothing behind.

use std::time::Duration;

use countersign_postgres::Transaction;
use countersign_testbed::eventually;
use sqlx::Connection;

use crate::stage::{SOON, Stage};

/// Writes one row, with a savepoint in the middle.
async fn write(stage: &Stage, id: i64) -> Result<(), sqlx::Error> {
    let insert = format!("INSERT INTO note VALUES ({id})");
    let mut tx = Transaction::open(&stage.pool, &insert).await?;
    let mut savepoint = tx.for_user().begin().await?;
    sqlx::query("SELECT pg_sleep(0.0005)").execute(&mut *savepoint).await?;
    savepoint.commit().await?;
    tx.commit().await.map_err(|error| sqlx::Error::Protocol(error.to_string()))
}

#[tokio::test]
async fn wherever_a_transaction_is_cancelled_the_pool_stays_clean() {
    /// A write takes about 2 ms here: from the first instruction to the last.
    const LONGEST_US: u64 = 5_000;
    const ROUNDS: i64 = 600;
    let stage = Stage::new(2).await;
    let (mut cancelled, mut finished) = (0, Vec::new());
    for round in 0..ROUNDS {
        let id = round * 2;
        let limit = Duration::from_micros(fastrand::u64(..LONGEST_US));
        match tokio::time::timeout(limit, write(&stage, id)).await {
            Ok(result) => {
                result.unwrap();
                finished.push(id);
            }
            Err(_) => cancelled += 1,
        }
        // If this runs in a transaction left open, the row vanishes.
        stage.note(id + 1).await;
    }
    assert!(cancelled > ROUNDS / 10, "only {cancelled} of {ROUNDS} were cancelled");
    stage.nothing_is_open().await;
    let notes = stage.notes().await;
    let lost: Vec<i64> =
        (0..ROUNDS).map(|round| round * 2 + 1).filter(|id| !notes.contains(id)).collect();
    assert!(lost.is_empty(), "{cancelled} cancelled; written and lost: {lost:?}");
    finished.retain(|id| !notes.contains(id));
    assert!(finished.is_empty(), "committed and lost: {finished:?}");
}

#[tokio::test]
async fn a_begin_that_waits_for_a_lock_can_be_cancelled() {
    let stage = Stage::new(1).await;
    let mut other = stage.outside.begin().await.unwrap();
    sqlx::query("INSERT INTO note VALUES (1)").execute(&mut *other).await.unwrap();
    let waiting = Transaction::open(&stage.pool, "INSERT INTO note VALUES (1)");
    let mut looking = stage.database.pool().await.unwrap().acquire().await.unwrap();
    let seen_waiting = eventually("the insert waits for the other's", SOON, async || {
        sqlx::query_scalar::<_, bool>(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
             AND application_name = 'tested' AND wait_event_type = 'Lock')",
        )
        .fetch_one(&mut *looking)
        .await
        .unwrap()
    });
    tokio::select! {
        _ = waiting => panic!("it did not wait for the other transaction"),
        () = seen_waiting => {}
    }
    other.rollback().await.unwrap();
    stage.nothing_is_open().await;
    stage.note(2).await;
    assert_eq!(stage.notes().await, [2]);
}

#[tokio::test]
async fn a_cancelled_query_is_waited_for_before_its_connection_is_used_again() {
    let stage = Stage::new(1).await;
    let mut tx = Transaction::open(&stage.pool, "INSERT INTO note VALUES (1)").await.unwrap();
    let slow = sqlx::query("SELECT pg_sleep(0.3)").execute(&mut tx);
    assert!(tokio::time::timeout(Duration::from_millis(50), slow).await.is_err());
    drop(tx);
    stage.note(2).await;
    assert_eq!(stage.notes().await, [2]);
}

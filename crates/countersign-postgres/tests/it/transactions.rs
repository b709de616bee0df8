//! A commit has committed and a rollback has rolled back when it says so.

use countersign_postgres::{
    CommitError, Transaction, Trouble, is_duplicate_key, sqlstate, trouble,
};
use sqlx::Connection;

use crate::stage::{SOON, Stage};

const INSERT_1: &str = "INSERT INTO note VALUES (1)";
const NOTHING: [i64; 0] = [];

async fn backend(stage: &Stage) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&stage.pool).await.unwrap()
}

#[tokio::test]
async fn the_statement_of_the_begin_is_part_of_the_transaction() {
    let stage = Stage::new(1).await;
    let backend_before = backend(&stage).await;
    Transaction::open(&stage.pool, INSERT_1).await.unwrap().rollback().await.unwrap();
    assert_eq!(stage.notes().await, NOTHING);
    drop(Transaction::open(&stage.pool, INSERT_1).await.unwrap());
    stage.nothing_is_open().await;
    assert_eq!(stage.notes().await, NOTHING);
    Transaction::open(&stage.pool, INSERT_1).await.unwrap().commit().await.unwrap();
    assert_eq!(stage.notes().await, [1]);
    stage.note(2).await;
    assert_eq!(stage.notes().await, [1, 2]);
    assert_eq!(backend(&stage).await, backend_before, "the connection stayed in the pool");
}

#[tokio::test]
async fn a_swallowed_error_does_not_look_like_a_commit() {
    let stage = Stage::new(1).await;
    let mut tx = Transaction::open(&stage.pool, INSERT_1).await.unwrap();
    let swallowed = sqlx::query(INSERT_1).execute(&mut tx).await.unwrap_err();
    assert_eq!(trouble(&swallowed), Trouble::Data);
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::NotCommitted(_)), "{error:?}");
    assert_eq!(stage.notes().await, NOTHING);
    stage.note(2).await;
    assert_eq!(stage.notes().await, [2]);
}

#[tokio::test]
async fn a_constraint_that_fails_at_the_commit_is_not_committed() {
    let stage = Stage::new(1).await;
    let backend_before = backend(&stage).await;
    let orphan = "INSERT INTO note VALUES (1, 100)";
    let error = Transaction::open(&stage.pool, orphan).await.unwrap().commit().await.unwrap_err();
    let CommitError::NotCommitted(cause) = error else { panic!("{error:?}") };
    assert_eq!(sqlstate(&cause).as_deref(), Some("23503"));
    stage.note(2).await;
    assert_eq!(stage.notes().await, [2]);
    assert_eq!(backend(&stage).await, backend_before, "the connection stayed in the pool");
}

#[tokio::test]
async fn a_connection_that_breaks_at_the_commit_leaves_it_unknown() {
    let stage = Stage::new(1).await;
    let mut tx = Transaction::open(&stage.pool, INSERT_1).await.unwrap();
    let backend: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut tx).await.unwrap();
    stage.run(&format!("SELECT pg_terminate_backend({backend}, 10000)")).await;
    let error = tx.commit().await.unwrap_err();
    let CommitError::Unknown(cause) = error else { panic!("{error:?}") };
    assert_eq!(trouble(&cause), Trouble::Again);
    stage.note(2).await;
    assert_eq!(stage.notes().await, [2]);
}

#[tokio::test]
async fn a_commit_by_hand_inside_of_the_transaction_is_found_out() {
    let stage = Stage::new(1).await;
    let mut tx = Transaction::open(&stage.pool, INSERT_1).await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut tx).await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
    stage.note(2).await;
    assert_eq!(stage.notes().await, [2]);
}

#[tokio::test]
async fn a_transaction_within_is_a_savepoint_and_commits_nothing() {
    let stage = Stage::new(1).await;
    let mut tx = Transaction::open(&stage.pool, INSERT_1).await.unwrap();
    let mut kept = tx.for_user().begin().await.unwrap();
    sqlx::query("INSERT INTO note VALUES (2)").execute(&mut *kept).await.unwrap();
    kept.commit().await.unwrap();
    assert_eq!(stage.notes().await, NOTHING);
    let mut undone = tx.for_user().begin().await.unwrap();
    sqlx::query("INSERT INTO note VALUES (3)").execute(&mut *undone).await.unwrap();
    undone.rollback().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stage.notes().await, [1, 2]);

    let mut tx = Transaction::open(&stage.pool, "").await.unwrap();
    let mut kept = tx.for_user().begin().await.unwrap();
    sqlx::query("INSERT INTO note VALUES (4)").execute(&mut *kept).await.unwrap();
    kept.commit().await.unwrap();
    drop(tx);
    stage.nothing_is_open().await;
    assert_eq!(stage.notes().await, [1, 2]);
}

#[tokio::test]
async fn a_key_that_is_taken_is_told_by_the_begin() {
    let stage = Stage::new(1).await;
    stage
        .run(
            "CREATE SCHEMA countersign;
             CREATE TABLE countersign.inbox (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE countersign.inbox_p20261121 (LIKE countersign.inbox INCLUDING ALL);
             ALTER TABLE countersign.inbox ATTACH PARTITION countersign.inbox_p20261121
             FOR VALUES FROM (0) TO (10)",
        )
        .await;
    let claim = "INSERT INTO countersign.inbox VALUES (1)";
    let backend_before = backend(&stage).await;
    Transaction::open(&stage.pool, claim).await.unwrap().commit().await.unwrap();
    let taken = Transaction::open(&stage.pool, claim).await.unwrap_err();
    assert!(is_duplicate_key(&taken, "countersign.inbox"), "{taken:?}");
    assert!(!is_duplicate_key(&taken, "countersign.in"), "{taken:?}");
    assert!(!is_duplicate_key(&taken, "note"), "{taken:?}");

    stage.note(1).await;
    let other = Transaction::open(&stage.pool, INSERT_1).await.unwrap_err();
    assert!(is_duplicate_key(&other, "note") && !is_duplicate_key(&other, "countersign.inbox"));
    stage.note(2).await;
    assert_eq!(stage.notes().await, [1, 2]);
    assert_eq!(backend(&stage).await, backend_before, "the connection stayed in the pool");
}

#[tokio::test]
async fn a_transaction_that_sits_idle_is_ended_by_the_server_and_not_committed() {
    let stage = Stage::new(1).await;
    let mut tx = Transaction::open(&stage.pool, INSERT_1).await.unwrap();
    let (_, backend): (String, i32) = sqlx::query_as(
        "SELECT set_config('idle_in_transaction_session_timeout', '10ms', true), pg_backend_pid()",
    )
    .fetch_one(&mut tx)
    .await
    .unwrap();
    countersign_testbed::eventually("the server ends the session", SOON, async || {
        sqlx::query_scalar::<_, bool>(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)",
        )
        .bind(backend)
        .fetch_one(&stage.outside)
        .await
        .unwrap()
    })
    .await;
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::NotCommitted(_)), "{error:?}");
    assert_eq!(stage.notes().await, NOTHING);
}

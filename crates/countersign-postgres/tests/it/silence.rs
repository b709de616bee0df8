//! Servers that are gone without a word: nothing is closed, nothing answers, and TCP has nothing to
//! send again.

use std::time::Duration;

use countersign_postgres::{CommitError, Database, Transaction, Trouble, trouble};
use countersign_testbed::{Proxy, Way, eventually};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::stage::{SOON, Stage, pool};

/// The limit of a call here. A server that is well and shares its machine keeps it.
const LIMIT: Duration = Duration::from_secs(2);
const WAYS: [Way; 3] = [Way::ToTarget, Way::FromTarget, Way::Both];

/// A pool as a user may have it, by way of a proxy.
struct Wire {
    stage: Stage,
    proxy: Proxy,
    pool: PgPool,
    /// The pool's database with the limit of the tests.
    tested: Database,
}

impl Wire {
    async fn new(connections: u32) -> Self {
        let stage = Stage::new(1).await;
        let (proxy, url) = Proxy::before(stage.database.url()).await.unwrap();
        let options = PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
        let pool = options.connect(&url).await.unwrap();
        let tested = Database::from(&pool).within(LIMIT);
        Self { stage, proxy, pool, tested }
    }

    /// Opens a connection, and waits until it is back in the pool.
    async fn one_is_idle(&self) {
        self.tested.answers().await.unwrap();
        eventually("a connection is idle", SOON, async || self.pool.num_idle() == 1).await;
    }

    /// A statement at once: the places of all connections that fell silent are free.
    async fn places_are_free(&self) {
        let answers = Database::from(&self.pool);
        tokio::time::timeout(SOON, answers.answers()).await.expect("a free place").unwrap();
    }
}

fn is_silence(error: &sqlx::Error) -> bool {
    assert_eq!(trouble(error), Trouble::Again, "{error:?}");
    matches!(error, sqlx::Error::Io(why) if why.kind() == std::io::ErrorKind::TimedOut)
}

/// Why this crate does not leave it to sqlx 0.9.0.
#[tokio::test]
async fn a_dropped_query_on_a_silent_connection_holds_its_place_in_sqlx() {
    let Wire { proxy, pool, .. } = Wire::new(1).await;
    sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    proxy.lose(Way::Both);
    let dropped = tokio::time::timeout(LIMIT, sqlx::query("SELECT 1").execute(&pool)).await;
    dropped.expect_err("the server is silent");
    let next = tokio::time::timeout(2 * LIMIT, sqlx::query("SELECT 1").execute(&pool)).await;
    next.expect_err("sqlx bounds the release: then this crate need not");
}

#[tokio::test]
async fn a_statement_on_a_silent_connection_fails_within_its_limit_and_its_place_is_free() {
    for way in WAYS {
        let wire = Wire::new(1).await;
        wire.one_is_idle().await;
        wire.proxy.lose(way);
        let silent = tokio::time::timeout(SOON, wire.tested.answers()).await.expect("an end");
        assert!(is_silence(&silent.unwrap_err()), "{way:?}");
        wire.places_are_free().await;
    }
}

#[tokio::test]
async fn begin_statement_commit_and_rollback_gone_silent_leave_no_place_taken() {
    for way in WAYS {
        let wire = Wire::new(1).await;
        let open = || Transaction::open(&wire.tested, "");
        wire.one_is_idle().await;
        wire.proxy.lose(way);
        let begin = tokio::time::timeout(SOON, open()).await.expect("an end").unwrap_err();
        assert!(is_silence(&begin), "{way:?}");
        wire.places_are_free().await;

        let mut tx = open().await.unwrap();
        wire.proxy.lose(way);
        let insert = sqlx::query("INSERT INTO note VALUES (1)").execute(&mut tx);
        let insert = tokio::time::timeout(SOON, insert).await.expect("an end").unwrap_err();
        assert!(is_silence(&insert), "{way:?}");
        // A connection that is given up asks nothing more of the server.
        assert!(matches!(tx.commit().await.unwrap_err(), CommitError::Unknown(_)), "{way:?}");
        wire.places_are_free().await;

        let tx = open().await.unwrap();
        wire.proxy.lose(way);
        let commit = tokio::time::timeout(SOON, tx.commit()).await.expect("an end").unwrap_err();
        assert!(matches!(&commit, CommitError::Unknown(why) if is_silence(why)), "{commit:?}");
        wire.places_are_free().await;

        let tx = open().await.unwrap();
        wire.proxy.lose(way);
        let rollback = tokio::time::timeout(SOON, tx.rollback()).await.expect("an end");
        assert!(is_silence(&rollback.unwrap_err()), "{way:?}");
        wire.places_are_free().await;
    }
}

#[tokio::test]
async fn a_release_gone_silent_frees_its_place() {
    for way in WAYS {
        let wire = Wire::new(1).await;
        let tx = Transaction::open(&wire.tested, "INSERT INTO note VALUES (1)").await.unwrap();
        wire.proxy.lose(way);
        drop(tx);
        wire.places_are_free().await;
        assert!(wire.stage.notes().await.is_empty(), "{way:?}");
    }
}

#[tokio::test]
async fn ten_idle_connections_gone_silent_cost_one_failure() {
    const CONNECTIONS: u32 = 10;
    let wire = Wire::new(CONNECTIONS).await;
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        open.push(Transaction::open(&wire.tested, "").await.unwrap());
    }
    drop(open);
    eventually("all connections are idle", SOON, async || {
        wire.pool.num_idle() == CONNECTIONS as usize
    })
    .await;
    wire.proxy.lose(Way::Both);
    assert!(is_silence(&wire.tested.answers().await.unwrap_err()));
    for _ in 0..CONNECTIONS {
        wire.tested.answers().await.unwrap();
    }
}

#[tokio::test]
async fn a_begin_cut_off_by_its_limit_leaks_no_transaction() {
    let stage = Stage::new(1).await;
    let tested = Database::from(pool(&stage.database, 1).await).within(LIMIT);
    let slow = "SET LOCAL statement_timeout = 0;SELECT pg_sleep(4);INSERT INTO note VALUES (1)";
    let error = Transaction::open(&tested, slow).await.unwrap_err();
    assert!(is_silence(&error), "{error:?}");
    // In a transaction left open, this row would vanish.
    sqlx::query("INSERT INTO note VALUES (2)").execute(&tested).await.unwrap();
    stage.nothing_is_open().await;
    assert_eq!(stage.notes().await, [2]);
}

#[tokio::test]
async fn a_server_that_lives_ends_a_slow_statement_itself() {
    let stage = Stage::new(1).await;
    let tested = Database::from(pool(&stage.database, 1).await).within(LIMIT);
    let mut tx = Transaction::open(&tested, "").await.unwrap();
    let slow = sqlx::query("SELECT pg_sleep(60)").execute(&mut tx).await.unwrap_err();
    assert_eq!(countersign_postgres::sqlstate(&slow).as_deref(), Some("57014"), "{slow:?}");
    tx.rollback().await.unwrap();
    let limit: String =
        sqlx::query_scalar("SHOW statement_timeout").fetch_one(&tested).await.unwrap();
    assert_eq!(limit, "10s", "outside of the transaction the pool's limit counts");
}

#[tokio::test]
async fn a_pool_with_silent_connections_closes_in_time() {
    let wire = Wire::new(1).await;
    let _held = Transaction::open(&wire.tested, "").await.unwrap();
    wire.proxy.lose(Way::Both);
    tokio::time::timeout(SOON, wire.tested.close()).await.expect("closed");
}

//! Partitions appear ahead of time, go past retention, and hold up no reader or writer.

use std::time::{Duration, Instant};

use countersign_postgres::{Database, Partitions, sqlstate};
use countersign_protocol::{MessageId, UnixMillis};

use crate::stage::{Stage, pool};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TABLE: &str = "countersign.seen";

async fn stage() -> Stage {
    let stage = Stage::new(2).await;
    stage
        .run(
            "CREATE SCHEMA countersign;
             CREATE TABLE countersign.seen (message_id uuid PRIMARY KEY, n int CHECK (n > 0))
             PARTITION BY RANGE (message_id)",
        )
        .await;
    stage
}

fn id_of(moment: UnixMillis) -> MessageId {
    MessageId::from_parts(moment, [7; 10])
}

fn now() -> UnixMillis {
    MessageId::generate().time()
}

async fn insert(pool: &Database, id: MessageId) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO countersign.seen VALUES ($1, 1)")
        .bind(id.uuid())
        .execute(pool)
        .await
        .map(drop)
}

async fn partitions(stage: &Stage) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'countersign.seen'::regclass ORDER BY 1",
    )
    .fetch_all(&stage.outside)
    .await
    .unwrap()
}

#[tokio::test]
async fn every_id_between_retention_and_two_days_ahead_has_a_place() {
    let stage = stage().await;
    let window = Partitions::new(TABLE, 3 * DAY).maintain(&stage.pool).await.unwrap().unwrap();
    let now = now();
    for moment in [now.before(3 * DAY), now.before(DAY), now, now.after(DAY), now.after(2 * DAY)] {
        assert!(window.admit(id_of(moment)).is_ok());
        insert(&stage.pool, id_of(moment)).await.unwrap();
    }
    for moment in [now.before(5 * DAY), now.after(4 * DAY)] {
        assert!(window.admit(id_of(moment)).is_err());
        let error = insert(&stage.pool, id_of(moment)).await.unwrap_err();
        assert_eq!(sqlstate(&error).as_deref(), Some("23514"), "{error}");
    }
    let twice = insert(&stage.pool, id_of(now)).await.unwrap_err();
    assert_eq!(sqlstate(&twice).as_deref(), Some("23505"), "the key holds across partitions");
}

#[tokio::test]
async fn many_processes_may_make_them_at_once() {
    let stage = stage().await;
    let starts = (0..6).map(|_| async {
        let pool = pool(&stage.database, 1).await.into();
        Partitions::new(TABLE, 3 * DAY).maintain(&pool).await.unwrap()
    });
    let windows = futures_util::future::join_all(starts).await;
    assert!(windows.iter().all(|window| *window == windows[0]), "{windows:?}");
    assert_eq!(partitions(&stage).await.len(), 6);
}

#[tokio::test]
async fn what_is_past_retention_goes_whole_and_what_is_in_use_stays_for_now() {
    let stage = stage().await;
    let long_window = Partitions::new(TABLE, 5 * DAY).maintain(&stage.pool).await.unwrap().unwrap();
    let (kept, gone) = (now().before(DAY), now().before(4 * DAY + DAY / 2));
    insert(&stage.pool, id_of(kept)).await.unwrap();
    insert(&stage.pool, id_of(gone)).await.unwrap();

    // A session reads: no partition can be dropped, no other session waits for long, and the rest
    // is done.
    let mut reader = stage.outside.begin().await.unwrap();
    sqlx::query("SELECT FROM countersign.seen").execute(&mut *reader).await.unwrap();
    let short = Partitions::new(TABLE, 3 * DAY);
    let window = short.maintain(&stage.pool).await.unwrap().unwrap();
    assert!(window.oldest > long_window.oldest && window.newest == long_window.newest);
    assert_eq!(partitions(&stage).await.len(), 8, "everything is still there");
    reader.rollback().await.unwrap();

    assert_eq!(short.maintain(&stage.pool).await.unwrap(), Ok(window));
    assert_eq!(partitions(&stage).await.len(), 6);
    assert!(window.admit(id_of(kept)).is_ok() && window.admit(id_of(gone)).is_err());
    let left: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT message_id FROM countersign.seen")
        .fetch_all(&stage.outside)
        .await
        .unwrap();
    assert_eq!(left, [id_of(kept).uuid()]);
}

#[tokio::test]
async fn a_process_drops_two_partitions_and_no_more_on_the_day_of_its_start() {
    let stage = stage().await;
    Partitions::new(TABLE, 10 * DAY).maintain(&stage.pool).await.unwrap().unwrap();
    let short = Partitions::new(TABLE, 3 * DAY);
    for _ in 0..3 {
        let window = short.maintain(&stage.pool).await.unwrap().unwrap();
        assert_eq!(partitions(&stage).await.len(), 11);
        assert!(window.admit(id_of(now().before(7 * DAY))).is_ok(), "what is there is known");
    }
}

#[tokio::test]
async fn making_them_does_not_wait_for_open_inserts() {
    let stage = stage().await;
    let partitions_of_it = Partitions::new(TABLE, 3 * DAY);
    partitions_of_it.maintain(&stage.pool).await.unwrap().unwrap();
    let newest = partitions(&stage).await.pop().unwrap();
    stage.run(&format!("DROP TABLE countersign.{newest}")).await;

    let mut open = stage.outside.begin().await.unwrap();
    sqlx::query("INSERT INTO countersign.seen VALUES ($1, 1)")
        .bind(id_of(now()).uuid())
        .execute(&mut *open)
        .await
        .unwrap();
    let began = Instant::now();
    let window = partitions_of_it.maintain(&stage.pool).await.unwrap().unwrap();
    // The process would wait for 10 s, then fail.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(window.admit(id_of(now().after(2 * DAY))).is_ok());
    open.commit().await.unwrap();
}

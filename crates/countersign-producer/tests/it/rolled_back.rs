//! Notices of armings that were dropped or rolled back, and armings that no notice may name.

use std::collections::BTreeSet;

use countersign_producer::MessageId;
use countersign_testbed::{SOON, eventually};

use crate::stage::{Stage, WAITING_CHECKS, insert, settings, thing};

const NOTICES: &str = "countersign.rolled_back";

/// The ids and armings of all notices so far.
async fn told(stage: &Stage) -> BTreeSet<(String, String)> {
    let notices = stage.vhost.peek(NOTICES, 1_000).await;
    entries(notices.iter().map(|notice| {
        let notice = notice.json();
        assert_eq!((&notice["v"], &notice["upstream"]), (&1.into(), &"tested".into()));
        notice["rolled_back"].clone()
    }))
}

/// The ids and armings of all waiting checks.
async fn armed(stage: &Stage) -> BTreeSet<(String, String)> {
    let checks = stage.vhost.peek(WAITING_CHECKS, 1_000).await;
    entries(checks.iter().map(|check| check.json()["messages"].clone()))
}

fn entries(lists: impl Iterator<Item = serde_json::Value>) -> BTreeSet<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    lists
        .flat_map(|list| list.as_array().cloned().unwrap_or_default())
        .map(|entry| (text(&entry["id"]), text(&entry["arming"])))
        .collect()
}

async fn is_told(stage: &Stage, id: MessageId) {
    let id = id.to_string();
    eventually(&format!("{id} is told to be rolled back"), SOON, async || {
        told(stage).await.iter().any(|(told, _)| *told == id)
    })
    .await;
}

#[tokio::test]
async fn what_is_dropped_or_rolled_back_is_told_by_its_arming_and_nothing_else_is() {
    let stage = Stage::new(settings()).await;
    let begin = async |name: &str| {
        let message = thing(name);
        let id = message.id();
        (id, stage.begin(message, name).await)
    };
    // From its first transaction on the publisher knows the database of its transactions.
    let committed = stage.place("committed").await;

    let dropped_armed = thing("dropped before it began");
    let dropped_armed_id = dropped_armed.id();
    drop(stage.publisher.arm(dropped_armed).unwrap());
    let (dropped, tx) = begin("dropped in its transaction").await;
    drop(tx);
    let (rolled_back, tx) = begin("rolled back").await;
    drop(tx.rollback().await);
    let (failed, mut tx) = begin("failed").await;
    insert(&mut tx, failed, "twice").await.unwrap_err();
    let given_back = tx.commit().await.unwrap_err().into_armed();
    drop(given_back.expect("a failed transaction cannot be committed"));

    // The arming was rolled back once, and then committed.
    let (second_try, tx) = begin("second try").await;
    let mut tx = tx.rollback().await.begin(&stage.pool).await.unwrap();
    insert(&mut tx, second_try, "second try").await.unwrap();
    tx.commit().await.unwrap().publish();
    // Only the user knows whether his own store has committed this one.
    let held = thing("held");
    let held_id = held.id();
    drop(stage.publisher.arm(held).unwrap().held().await.unwrap());
    // Against all advice: the types cannot tell that this one is committed.
    let (by_hand, mut tx) = begin("by hand").await;
    sqlx::query("COMMIT").execute(&mut *tx).await.unwrap();
    drop(tx);
    assert!(stage.is_committed(by_hand).await);
    // Committed, and not published: only its check can heal that.
    let (not_published, tx) = begin("not published").await;
    drop(tx.commit().await.unwrap());
    // Notices leave in the order of the drops: when this one has arrived, so have all before it.
    let last = thing("last");
    let last_id = last.id();
    drop(stage.publisher.arm(last).unwrap());
    is_told(&stage, last_id).await;

    let told = told(&stage).await;
    let ids: BTreeSet<String> = told.iter().map(|(id, _)| id.clone()).collect();
    let expected = [dropped_armed_id, dropped, rolled_back, failed, last_id];
    assert_eq!(
        ids,
        expected.map(|id| id.to_string()).into(),
        "and none of {committed}, {second_try}, {held_id}, {by_hand}, {not_published}"
    );
    let armed = armed(&stage).await;
    assert!(told.is_subset(&armed), "each names the arming of its check: {told:?} {armed:?}");
}

/// At this moment nothing but the withheld notice speaks for the arming: the id is not in
/// `countersign.enlisted` yet, and in a moment it is committed.
#[tokio::test]
async fn an_arming_whose_commit_may_be_on_its_way_is_not_told() {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event = 'advisory'";
    let stage = Stage::new(settings()).await;
    stage.place("so that it is known where its transactions are").await;
    // From here on the database commits no thing while somebody has this lock.
    sqlx::raw_sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
         AS $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON thing
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    .execute(&stage.pool)
    .await
    .unwrap();
    let mut holder = stage.pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT pg_advisory_xact_lock(42)").execute(&mut *holder).await.unwrap();

    let message = thing("a chair");
    let id = message.id();
    let tx = stage.begin(message, "a chair").await;
    let is_on_its_way = eventually("the COMMIT is on its way", SOON, async || {
        let waiting: i64 = sqlx::query_scalar(WAITING).fetch_one(&stage.pool).await.unwrap();
        waiting == 1
    });
    tokio::select! {
        committed = tx.commit() => panic!("the lock holds it up: {committed:?}"),
        () = is_on_its_way => {}
    }
    // The future is dropped now. Notices leave in the order of the drops.
    let last = thing("last");
    let last_id = last.id();
    drop(stage.publisher.arm(last).unwrap());
    is_told(&stage, last_id).await;
    let told: BTreeSet<String> = told(&stage).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(told, [last_id.to_string()].into(), "and not {id}, which is about to be committed");
    holder.rollback().await.unwrap();
    eventually("it is committed", SOON, async || stage.is_committed(id).await).await;
}

#[tokio::test]
async fn armed_again_an_id_has_another_arming() {
    let stage = Stage::new(settings()).await;
    stage.place("so that it is known where its transactions are").await;
    let message = thing("a chair");
    let id = message.id();
    drop(stage.begin(message.clone(), "a chair").await);
    is_told(&stage, id).await;
    stage.begin(message, "a chair").await.commit().await.unwrap().publish();

    let of_id = |entries: BTreeSet<(String, String)>| -> BTreeSet<String> {
        let same = |(other, arming)| (other == id.to_string()).then_some(arming);
        entries.into_iter().filter_map(same).collect()
    };
    let (told, armed) = (of_id(told(&stage).await), of_id(armed(&stage).await));
    assert_eq!((told.len(), armed.len()), (1, 2), "{told:?} {armed:?}");
    assert!(told.is_subset(&armed));
}

#[tokio::test]
async fn an_upstream_without_a_database_tells_nothing() {
    let stage = Stage::new(settings()).await;
    drop(stage.publisher.arm(thing("dropped")).unwrap());
    drop(stage.publisher.arm(thing("held")).unwrap().held().await.unwrap());
    // The first transaction tells the publisher where to look; notices of earlier drops are
    // forgotten.
    stage.place("committed").await;
    let last = thing("last");
    let id = last.id();
    drop(stage.publisher.arm(last).unwrap());
    is_told(&stage, id).await;
    assert_eq!(told(&stage).await.len(), 1);
}

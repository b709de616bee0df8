//! The testbed's own tests, against the servers it starts.

use std::time::Duration;

use countersign_management::{Error as ManagementError, Management};
use countersign_testbed::{
    Broker, BrokerSettings, Database, Depth, Postgres, PostgresSettings, Vhost, eventually,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_is_published_is_counted_peeked_taken_and_purged() {
    let vhost = countersign_testbed::vhost().await;
    assert_eq!(vhost.depth("letters").await, None);
    vhost.declare_queue("letters", json!({})).await;

    let properties = json!({ "message_id": "m1", "headers": { "colour": "red", "weight": 7 } });
    let body = [0, 159, 146, 150];
    assert!(vhost.publish("", "letters", properties, &body).await);
    assert!(!vhost.publish("", "nowhere", json!({}), b"").await, "nothing is bound there");

    depth(&vhost, "letters", 1).await;
    let peeked = vhost.peek("letters", 10).await;
    assert_eq!(peeked.len(), 1);
    assert_eq!(peeked[0].message_id(), Some("m1"));
    assert_eq!(
        (&peeked[0].headers["colour"], &peeked[0].headers["weight"]),
        (&json!("red"), &json!(7))
    );
    assert_eq!(peeked[0].body, body);
    assert_eq!(vhost.take("letters", 10).await.len(), 1);
    assert_eq!(vhost.take("letters", 10).await, []);

    vhost.publish("", "letters", json!({}), b"two").await;
    vhost.purge("letters").await;
    assert_eq!(vhost.take("letters", 10).await, []);
    assert_eq!(vhost.queues().await, ["letters"]);
    vhost.delete_queue("letters").await;
    assert_eq!(vhost.queues().await, [""; 0]);
}

#[tokio::test]
async fn the_management_client_tells_a_gone_queue_from_a_wrong_vhost_and_a_wrong_password() {
    let vhost = countersign_testbed::vhost().await;
    vhost.declare_queue("letters", json!({})).await;
    vhost.publish("", "letters", json!({}), b"one").await;
    let (management, name) = (vhost.management(), vhost.name());
    eventually("the message is counted", SOON, || async {
        management.messages(name, "letters").await.unwrap() == Some(1)
    })
    .await;
    assert_eq!(management.messages(name, "gone").await.unwrap(), Some(0));

    let error = management.messages("no-such-vhost", "letters").await.unwrap_err();
    assert!(matches!(error, ManagementError::NoVhost { .. }), "{error}");

    let (scheme, host) = vhost.management_url().split_once("://").unwrap();
    let (_, host) = host.split_once('@').unwrap();
    let url = format!("{scheme}://nobody:wrong@{host}").parse().unwrap();
    let error = Management::new(url, SOON).messages(name, "letters").await.unwrap_err();
    assert!(matches!(error, ManagementError::Refused { status: 401, .. }), "{error}");
}

#[tokio::test]
async fn each_test_has_a_vhost_and_a_database_of_its_own() {
    let (one, other) = (countersign_testbed::vhost().await, countersign_testbed::vhost().await);
    one.declare_queue("letters", json!({})).await;
    assert_eq!(other.queues().await, [""; 0]);

    let (one, other) =
        (countersign_testbed::database().await, countersign_testbed::database().await);
    sqlx::raw_sql("CREATE TABLE letter ()").execute(&one.pool().await.unwrap()).await.unwrap();
    sqlx::raw_sql("CREATE TABLE letter ()").execute(&other.pool().await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn postgres_keeps_what_was_committed_when_killed_and_flushes_to_disk() {
    let mut postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let database = Database::create(postgres.address()).await.unwrap();
    let pool = database.pool().await.unwrap();
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&pool).await.unwrap();
    assert_eq!(fsync, "on");
    sqlx::raw_sql("CREATE TABLE letter (n int); INSERT INTO letter VALUES (1)")
        .execute(&pool)
        .await
        .unwrap();

    postgres.kill().await.unwrap();
    assert!(postgres.run("SELECT 1").await.is_err());
    postgres.restart().await.unwrap();
    let pool = database.pool().await.unwrap();
    let n: i32 = sqlx::query_scalar("SELECT n FROM letter").fetch_one(&pool).await.unwrap();
    assert_eq!(n, 1);

    postgres.stop().await.unwrap();
    postgres.restart().await.unwrap();
    database.pool().await.unwrap();
}

#[tokio::test]
async fn a_killed_broker_comes_back_with_its_queues_and_messages() {
    let mut broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let vhost = Vhost::create(broker.address()).await.unwrap();
    vhost.declare_queue("letters", json!({})).await;
    vhost.publish("", "letters", json!({ "delivery_mode": 2 }), b"hello").await;
    depth(&vhost, "letters", 1).await;

    broker.settle().await.unwrap();
    broker.kill();
    broker.restart().await.unwrap();
    depth(&vhost, "letters", 1).await;
}

async fn depth(vhost: &Vhost, queue: &str, ready: u64) {
    eventually(&format!("{queue} holds {ready}"), SOON, async || match vhost.depth(queue).await {
        Some(depth) if depth == (Depth { ready, unacked: 0 }) => Ok(()),
        other => Err(other),
    })
    .await;
}

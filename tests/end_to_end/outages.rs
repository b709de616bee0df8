//! The test's own servers go away under load, and come back.

use countersign_testbed::{Broker, BrokerSettings, Postgres, PostgresSettings};

use crate::world::World;

#[tokio::test]
async fn broker_and_postgres_killed_and_restarted_lose_and_double_nothing() {
    let mut broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let mut postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let world = World::on(broker.address(), postgres.address()).await;
    world.start().await;

    world.place_many(50).await;
    broker.settle().await.unwrap();
    broker.kill();
    let refused = world.try_place("while the broker is away").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    broker.restart().await.unwrap();
    world.places_again().await;
    world.place_many(50).await;

    postgres.kill().await.unwrap();
    world.try_place("while Postgres is away").await.unwrap_err();
    postgres.restart().await.unwrap();
    world.places_again().await;
    world.place_many(50).await;

    world.audit().await;
}

//! The test's own broker and Postgres are killed under load, and come back.

use std::time::Duration;

use countersign_testbed::{Broker, BrokerSettings, Postgres, PostgresSettings, Servers};

use super::schedule::Plan;
use super::trial::Trial;
use crate::world::World;

#[tokio::test]
async fn a_broker_killed_and_restarted_past_the_check_delay_loses_and_doubles_nothing() {
    const CHECK_DELAY: Duration = Duration::from_secs(1);
    let mut broker = Broker::start(BrokerSettings::default()).await.unwrap();
    let servers = Servers::shared().await.unwrap();
    let world = World::on(broker.address(), servers.postgres()).await;
    let mut trial = Trial::in_world("servers::broker", world);
    trial.start().await;
    // Starting takes the server some seconds more.
    let plan = Plan { victims: 1, at_once: 1, after_ms: 100..1_500, lasts_ms: 0..6_000 };
    for strike in trial.draw(&plan).iter().take(2) {
        tokio::time::sleep(strike.after).await;
        broker.settle().await.unwrap();
        broker.kill();
        trial.harms += 1;
        tokio::time::sleep(CHECK_DELAY + strike.lasts).await;
        broker.restart().await.unwrap();
        trial.flows_again().await;
    }
    let counted = trial.audit().await;
    assert!(counted.refused > 0, "nothing can be ordered while it is away");
}

#[tokio::test]
async fn a_postgres_killed_and_restarted_loses_and_doubles_nothing() {
    let mut postgres = Postgres::start(PostgresSettings::default()).await.unwrap();
    let servers = Servers::shared().await.unwrap();
    let world = World::on(servers.broker(), postgres.address()).await;
    let mut trial = Trial::in_world("servers::postgres", world);
    trial.start().await;
    let plan = Plan { victims: 1, at_once: 1, after_ms: 100..2_000, lasts_ms: 500..3_000 };
    for strike in trial.draw(&plan) {
        tokio::time::sleep(strike.after).await;
        postgres.kill().await.unwrap();
        trial.harms += 1;
        tokio::time::sleep(strike.lasts).await;
        postgres.restart().await.unwrap();
        trial.flows_again().await;
    }
    let counted = trial.audit().await;
    assert!(counted.refused > 0, "nothing can be ordered while it is away");
}

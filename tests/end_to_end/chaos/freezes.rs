//! SIGSTOP, and SIGCONT after a while: long enough that the broker gives the connection up, and the
//! process that wakes holds deliveries that are another process's by now.

use std::time::Duration;

use countersign_testbed::{HEALED, Signal, eventually};

use super::schedule::Plan;
use super::trial::Trial;
use crate::world::{CONFIRM_QUEUE, ORDERS_QUEUE};

/// The broker gives up a silent connection after two to three of its heartbeats, of 1 s here.
const LONG: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_consumer_frozen_and_resumed_loses_and_doubles_nothing() {
    let trial = freeze("freezes::logistics", "logistics").await;
    was_redelivered(&trial, ORDERS_QUEUE).await;
    trial.audit().await;
}

#[tokio::test]
async fn a_callback_service_frozen_and_resumed_loses_and_doubles_nothing() {
    let trial = freeze("freezes::callback", "callback").await;
    was_redelivered(&trial, CONFIRM_QUEUE).await;
    trial.audit().await;
}

#[tokio::test]
async fn an_upstream_frozen_and_resumed_loses_and_doubles_nothing() {
    let trial = freeze("freezes::orders", "orders").await;
    let counted = trial.audit().await;
    assert!(counted.refused > 0, "who called it meanwhile was not answered in time");
}

async fn freeze(test: &'static str, name: &str) -> Trial {
    let mut trial = Trial::new(test).await;
    let url = format!("{}?heartbeat=1", trial.world.vhost.url());
    trial.service(name).set("COUNTERSIGN_AMQP_URL", url);
    trial.start().await;
    let plan = Plan { victims: 1, at_once: 1, after_ms: 100..1_000, lasts_ms: 200..3_000 };
    let mut strikes = trial.draw(&plan);
    strikes[0].lasts = LONG;
    for strike in &strikes {
        if name != "logistics" && strike.choice < 50 {
            trial.destroy_messages().await;
        }
        trial.wait_for(&[name], strike).await;
        trial.service(name).signal(Signal::Stop);
        tokio::time::sleep(strike.lasts).await;
        trial.service(name).signal(Signal::Cont);
        trial.harms += 1;
    }
    trial
}

async fn was_redelivered(trial: &Trial, queue: &str) {
    eventually(&format!("the broker repeats deliveries of {queue}"), HEALED, async || {
        trial.redelivered(queue).await > 0
    })
    .await;
}

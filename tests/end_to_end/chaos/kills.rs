//! SIGKILL at random moments, and at the crash points where a step is surely half done.

use std::ops::Range;

use super::schedule::Plan;
use super::trial::Trial;

const AFTER_MS: Range<u64> = 50..1_000;
/// Outages shorter and longer than the check delay of 1 s.
const DOWN_MS: Range<u64> = 50..1_500;

#[tokio::test]
async fn consumers_killed_again_and_again_lose_and_double_nothing() {
    let mut trial = Trial::new("kills::consumers").await;
    trial.more.push(trial.world.replica(&trial.world.logistics, "logistics-2"));
    trial.start().await;
    kill(&mut trial, &["logistics", "logistics-2"], 1, false).await;
    trial.crash("logistics", "consumer.committed").await;
    trial.crash("logistics-2", "consumer.confirmed").await;

    let counted = trial.audit().await;
    assert!(counted.duplicates > 0, "killed between commit and ack: delivered again");
}

#[tokio::test]
async fn a_callback_service_killed_again_and_again_loses_and_doubles_nothing() {
    let mut trial = Trial::new("kills::callback").await;
    trial.start().await;
    kill(&mut trial, &["callback"], 1, true).await;
    trial.crash("callback", "callback.recorded").await;
    trial.audit().await;
}

#[tokio::test]
async fn two_callback_services_killed_by_turns_lose_and_double_nothing() {
    let mut trial = Trial::new("kills::callbacks").await;
    trial.more.push(trial.world.replica(&trial.world.callback, "callback-2"));
    trial.start().await;
    kill(&mut trial, &["callback", "callback-2"], 1, true).await;
    trial.audit().await;
}

#[tokio::test]
async fn an_upstream_killed_again_and_again_loses_and_doubles_nothing() {
    let mut trial = Trial::new("kills::orders").await;
    trial.start().await;
    kill(&mut trial, &["orders"], 1, false).await;
    trial.crash("orders", "producer.armed").await;
    trial.crash("orders", "producer.committed").await;

    let counted = trial.audit().await;
    assert!(counted.refused > 0, "who called it meanwhile was not answered");
    assert!(counted.resends > 0, "killed between commit and publish: sent on request alone");
}

#[tokio::test]
async fn two_parties_killed_at_once_lose_and_double_nothing() {
    let mut trial = Trial::new("kills::two_at_once").await;
    trial.start().await;
    kill(&mut trial, &["orders", "logistics", "callback"], 2, true).await;
    trial.audit().await;
}

/// Kills `at_once` of the victims again and again. With `destroying`, every third kill destroys
/// messages before, so that there is something to ask for.
async fn kill(trial: &mut Trial, victims: &[&str], at_once: usize, destroying: bool) {
    let plan = Plan { victims: victims.len(), at_once, after_ms: AFTER_MS, lasts_ms: DOWN_MS };
    for (n, strike) in trial.draw(&plan).iter().enumerate() {
        if destroying && n % 3 == 0 {
            trial.destroy_messages().await;
        }
        trial.kill(victims, strike).await;
    }
}

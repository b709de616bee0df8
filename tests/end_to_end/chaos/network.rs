//! A proxy cuts the way to the broker or to the database, leaves it half open, or slows it down.

use std::time::Duration;

use countersign_testbed::{Conduct, HEALED, Proxy, Way, eventually};

use super::schedule::{Plan, Strike};
use super::trial::Trial;

/// How long connections are cut at least: long enough that the proxy's tasks, on this same thread,
/// see the cut.
const SEEN: Duration = Duration::from_millis(100);
/// What a silence may cost, by the promise.
const A_MINUTE: Duration = Duration::from_secs(60);
const OPEN: Conduct = Conduct::Forward { after: Duration::ZERO };

#[tokio::test]
async fn a_consumer_with_a_bad_way_to_the_broker_loses_and_doubles_nothing() {
    to_the_broker("network::logistics_broker", "logistics").await;
}

#[tokio::test]
async fn a_callback_service_with_a_bad_way_to_the_broker_loses_and_doubles_nothing() {
    to_the_broker("network::callback_broker", "callback").await;
}

#[tokio::test]
async fn an_upstream_with_a_bad_way_to_the_broker_loses_and_doubles_nothing() {
    to_the_broker("network::orders_broker", "orders").await;
}

#[tokio::test]
async fn a_consumer_with_a_bad_way_to_its_database_loses_and_doubles_nothing() {
    to_the_database("network::logistics_database", "logistics").await;
}

#[tokio::test]
async fn a_callback_service_with_a_bad_way_to_its_database_loses_and_doubles_nothing() {
    to_the_database("network::callback_database", "callback").await;
}

#[tokio::test]
async fn an_upstream_with_a_bad_way_to_its_database_loses_and_doubles_nothing() {
    to_the_database("network::orders_database", "orders").await;
}

#[tokio::test]
async fn a_consumer_whose_connections_to_the_broker_fall_silent_for_good_loses_and_doubles_nothing()
{
    silent_broker("network::logistics_broker_silent", "logistics").await;
}

#[tokio::test]
async fn an_upstream_whose_connections_to_the_broker_fall_silent_for_good_loses_and_doubles_nothing()
 {
    silent_broker("network::orders_broker_silent", "orders").await;
}

#[tokio::test]
async fn an_upstream_whose_connections_to_its_database_fall_silent_for_good_loses_and_doubles_nothing()
 {
    silent_database("network::orders_database_silent", "orders").await;
}

async fn silent_broker(test: &'static str, name: &str) {
    let mut trial = Trial::new(test).await;
    let proxy = trial.world.broker_through_proxy(name).await;
    fall_silent(trial, name, &proxy).await;
}

async fn silent_database(test: &'static str, name: &str) {
    let mut trial = Trial::new(test).await;
    let proxy = trial.world.database_through_proxy(name).await;
    fall_silent(trial, name, &proxy).await;
}

/// Loses the connections of a moment for ever, in each direction once. The party has to give them up
/// by itself: nothing breaks, nothing comes back.
async fn fall_silent(mut trial: Trial, name: &str, proxy: &Proxy) {
    trial.start().await;
    let plan = Plan { victims: 1, at_once: 1, after_ms: 100..2_000, lasts_ms: 0..1 };
    let mut ways = [Way::ToTarget, Way::FromTarget, Way::Both];
    trial.random.shuffle(&mut ways);
    for (strike, way) in trial.draw(&plan).iter().zip(ways) {
        if name == "callback" {
            trial.destroy_messages().await;
        }
        tokio::time::sleep(strike.after).await;
        let carried = proxy.carried();
        proxy.lose(way);
        trial.harms += 1;
        eventually(
            &format!("{name} gives its silent connections up ({way:?})"),
            A_MINUTE,
            async || proxy.carried() > carried,
        )
        .await;
        trial.flows_again().await;
    }
    trial.audit().await;
}

async fn to_the_broker(test: &'static str, name: &str) {
    let mut trial = Trial::new(test).await;
    let proxy = trial.world.broker_through_proxy(name).await;
    misbehave(trial, name, &proxy).await;
}

async fn to_the_database(test: &'static str, name: &str) {
    let mut trial = Trial::new(test).await;
    let proxy = trial.world.database_through_proxy(name).await;
    misbehave(trial, name, &proxy).await;
}

async fn misbehave(mut trial: Trial, name: &str, proxy: &Proxy) {
    trial.start().await;
    assert!(proxy.carried() > 0, "{name} goes through the proxy");
    let plan = Plan { victims: 1, at_once: 1, after_ms: 100..1_000, lasts_ms: 500..4_000 };
    let mut harms: [fn(&Strike, &Proxy) -> After; 3] = [cut, half_open, slow];
    trial.random.shuffle(&mut harms);
    for (n, strike) in trial.draw(&plan).iter().enumerate() {
        if name == "callback" {
            trial.destroy_messages().await;
        }
        tokio::time::sleep(strike.after).await;
        let carried = proxy.carried();
        let after = harms[n % harms.len()](strike, proxy);
        trial.harms += 1;
        tokio::time::sleep(strike.lasts).await;
        if after == After::ClosedAndOpen {
            proxy.conduct(Conduct::Cut);
            tokio::time::sleep(SEEN).await;
        }
        proxy.conduct(OPEN);
        if after != After::Open {
            eventually(&format!("{name} connects again"), HEALED, async || {
                proxy.carried() > carried
            })
            .await;
        }
    }
    let counted = trial.audit().await;
    if name == "orders" {
        assert!(counted.refused > 0, "callers were refused meanwhile, or waited too long");
    }
}

/// How the connections go on when the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The connections are still there, and go on.
    Open,
    /// The connections are closed already.
    Closed,
    /// The connections are closed now.
    ClosedAndOpen,
}

/// The proxy closes connections, and new ones at once.
fn cut(_: &Strike, proxy: &Proxy) -> After {
    proxy.conduct(Conduct::Cut);
    After::Closed
}

/// The proxy lets nothing through and closes nothing. Then connections break, or the bytes held
/// back arrive late.
fn half_open(strike: &Strike, proxy: &Proxy) -> After {
    proxy.conduct(Conduct::Silence);
    if strike.choice < 50 { After::ClosedAndOpen } else { After::Open }
}

/// The proxy lets everything through, late.
fn slow(strike: &Strike, proxy: &Proxy) -> After {
    const SLOWEST: Duration = Duration::from_millis(150);
    proxy.conduct(Conduct::Forward { after: SLOWEST * u32::from(strike.choice) / 100 });
    After::Open
}

//! One test's world under load, the harm done to it, and the result.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use countersign_testbed::{HEALED, SOON, Service, eventually};
use uuid::Uuid;

use super::load::Load;
use super::schedule::{self, Plan, Strike};
use crate::world::{ABORTED, ORDERS_QUEUE, World, ends};

/// Longer than a lease of the callback service and some resends, on a busy machine.
const SETTLED: Duration = Duration::from_secs(120);
/// This many orders are accepted before the first blow, and after the last.
const FLOWING: u64 = 20;

/// A test under way.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) world: World,
    /// Replicas, which the world does not know.
    pub(super) more: Vec<Service>,
    pub(super) random: fastrand::Rng,
    /// How often a process was killed, frozen or cut off.
    pub(super) harms: u64,
    test: &'static str,
    load: Option<Load>,
    /// Messages destroyed in the broker.
    destroyed: u64,
    began: Instant,
}

/// Counts from the databases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// Calls that were refused or got no answer in time.
    pub(super) refused: u64,
    /// Resends that the callback service asked for.
    pub(super) resends: i64,
    /// Deliveries whose effect was already there.
    pub(super) duplicates: i64,
}

impl Trial {
    /// A world that has not started yet. It allows attempts enough that being killed again and
    /// again parks no message.
    pub(super) fn in_world(test: &'static str, mut world: World) -> Self {
        world.callback.set("COUNTERSIGN_MAX_RESENDS", "8");
        let seed = schedule::seed();
        say(&format!("chaos {test}: begins with CHAOS_SEED={seed}"));
        Self {
            world,
            more: Vec::new(),
            random: schedule::random(seed, test),
            harms: 0,
            test,
            load: None,
            destroyed: 0,
            began: Instant::now(),
        }
    }

    /// [`Self::in_world`], on the shared servers.
    pub(super) async fn new(test: &'static str) -> Self {
        Self::in_world(test, World::new().await)
    }

    /// Starts all services and the load; returns when orders are accepted and shipped.
    pub(super) async fn start(&mut self) {
        self.world.start().await;
        for service in &mut self.more {
            service.start().unwrap();
            service.ready(SOON).await.unwrap();
        }
        let load = Load::start(&self.world);
        load.flows(FLOWING).await;
        self.load = Some(load);
        eventually("an order is shipped", HEALED, async || self.shipped().await > 0).await;
    }

    /// Draws the blows of this test.
    pub(super) fn draw(&mut self, plan: &Plan) -> Vec<Strike> {
        plan.draw(&mut self.random, schedule::harm_lasts())
    }

    /// A service, one of the world's or a replica.
    pub(super) fn service(&mut self, name: &str) -> &mut Service {
        match self.more.iter().position(|service| service.name() == name) {
            Some(place) => &mut self.more[place],
            None => self.world.service(name),
        }
    }

    /// SIGKILLs the strike's victims, and starts them again after its time.
    pub(super) async fn kill(&mut self, victims: &[&str], strike: &Strike) {
        self.wait_for(victims, strike).await;
        for &victim in &strike.victims {
            let service = self.service(victims[victim]);
            assert_eq!(service.ended(), None, "{} ended by itself", service.name());
            service.kill();
            self.harms += 1;
        }
        tokio::time::sleep(strike.lasts).await;
        for &victim in &strike.victims {
            self.service(victims[victim]).start().unwrap();
        }
    }

    /// Waits for the moment of the strike.
    pub(super) async fn wait_for(&mut self, victims: &[&str], strike: &Strike) {
        if strike.once_ready {
            for &victim in &strike.victims {
                self.service(victims[victim]).ready(SOON).await.unwrap();
            }
        }
        tokio::time::sleep(strike.after).await;
    }

    /// Lets a service die at this crash point, the next time but so many that it gets there, with a
    /// step surely half done; then starts it again.
    pub(super) async fn crash(&mut self, name: &str, point: &str) {
        const MOST_PASSED: u64 = 20;
        let passed = self.random.u64(0..MOST_PASSED);
        let service = self.service(name);
        service.set("FAILPOINTS", format!("{point}={passed}*off->return")).start().unwrap();
        let ended = service.wait(HEALED).await.expect("it reaches its crash point");
        assert_eq!(ended.signal(), Some(ABORTED), "{name} ended otherwise: {ended}");
        service.unset("FAILPOINTS").start().unwrap();
        // Taking down the running process was the first.
        self.harms += 2;
    }

    /// Destroys messages that wait in the broker, so that the callback service has something to ask
    /// for.
    pub(super) async fn destroy_messages(&mut self) {
        self.world.logistics.kill();
        self.load.as_ref().unwrap().flows(1).await;
        self.world.destroy(ORDERS_QUEUE).await;
        self.destroyed += 1;
        self.world.logistics.start().unwrap();
    }

    /// Waits until orders are accepted again.
    pub(super) async fn flows_again(&self) {
        self.load.as_ref().unwrap().flows(FLOWING).await;
    }

    /// How many deliveries of a queue the broker has repeated, as far as it has counted.
    pub(super) async fn redelivered(&self, queue: &str) -> u64 {
        let path = ["queues", self.world.vhost.name(), queue];
        let found = self.world.vhost.management().get(&path).await.unwrap();
        found.map_or(0, |queue| queue["message_stats"]["redeliver"].as_u64().unwrap_or(0))
    }

    /// Ends the load and the test: the audit, and a line of counts. All services run again by then.
    pub(super) async fn audit(mut self) -> Counted {
        assert!(self.harms > 0, "no harm was done");
        self.flows_again().await;
        let load = self.load.take().unwrap();
        let refused = load.refused();
        let accepted: BTreeSet<Uuid> = load.stop().await.into_iter().collect();

        self.world.balances(SETTLED).await;
        self.nothing_is_open().await;
        // The messages that were resent last may have been processed twice.
        self.world.balances(SETTLED).await;

        let committed: BTreeSet<Uuid> =
            self.world.committed_orders().await.iter().map(|order| order.order_id).collect();
        let broken: Vec<&Uuid> = accepted.difference(&committed).collect();
        assert!(broken.is_empty(), "accepted, and not in the database: {broken:?}");
        let shipped = self.shipped().await;
        let overdue = self.world.overdue().await;
        let counted = Counted {
            refused,
            resends: overdue.iter().map(|row| i64::from(row.resends)).sum(),
            duplicates: self.world.duplicates().await,
        };
        let parked = overdue.iter().filter(|row| row.state == "parked").count();
        let committed = committed.len();
        say(&format!(
            "chaos {}: CHAOS_SEED={}: {committed} orders committed, {shipped} shipped, {} harms, {} \
             resends, {} duplicates suppressed, {parked} parked, {refused} calls refused, {:.0} s",
            self.test,
            schedule::seed(),
            self.harms,
            counted.resends,
            counted.duplicates,
            self.began.elapsed().as_secs_f64(),
        ));
        assert!(2 * usize::try_from(shipped).unwrap() > committed, "most are shipped, not parked");
        if self.destroyed > 0 {
            assert!(counted.resends > 0, "messages were destroyed: only a resend could ship them");
        }
        for service in &mut self.more {
            ends(service).await;
        }
        self.world.ends().await;
        counted
    }

    /// Waits until the ledger has no message left to ask for.
    async fn nothing_is_open(&self) {
        eventually("nothing overdue is open", SETTLED, async || {
            let mut rows = self.world.overdue().await;
            rows.retain(|row| matches!(&*row.state, "waiting" | "asking"));
            if rows.is_empty() { Ok(()) } else { Err((rows.len(), rows.swap_remove(0))) }
        })
        .await;
    }

    async fn shipped(&self) -> i64 {
        sqlx::query_scalar("SELECT count(DISTINCT order_id) FROM shipments")
            .fetch_one(&self.world.databases.logistics)
            .await
            .expect("the number of shipped orders")
    }
}

/// The line is shown also when the test passes, unlike its captured output.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("standard error takes a line");
}

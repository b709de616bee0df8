//! Callers that place orders all the while, and remember which orders they were promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use uuid::Uuid;

use countersign_testbed::HEALED;

use crate::world::{OrdersClient, World, try_place};

/// How many callers place orders at a time.
const CALLERS: usize = 8;
/// How long each caller waits between two orders: 50 a second together, at most.
const PAUSE: Duration = Duration::from_millis(160);
/// After so long without an answer a caller gives up; it never learns whether there is an order.
const PATIENCE: Duration = Duration::from_secs(3);

/// The callers.
#[derive(Debug)]
pub(super) struct Load {
    callers: JoinSet<Vec<Uuid>>,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    stop: AtomicBool,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Load {
    /// Starts the callers.
    pub(super) fn start(world: &World) -> Self {
        let seen = Arc::new(Seen::default());
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            callers.spawn(call(world.caller(), Arc::clone(&seen)));
        }
        Self { callers, seen }
    }

    /// Waits until this many more orders were accepted.
    pub(super) async fn flows(&self, more: u64) {
        let goal = self.accepted() + more;
        countersign_testbed::eventually("orders are accepted", HEALED, async || {
            let accepted = self.accepted();
            if accepted >= goal { Ok(()) } else { Err(format!("{accepted} of {goal}")) }
        })
        .await;
    }

    /// How many orders were refused, or not answered in time.
    pub(super) fn refused(&self) -> u64 {
        self.seen.refused.load(Ordering::Relaxed)
    }

    fn accepted(&self) -> u64 {
        self.seen.accepted.load(Ordering::Relaxed)
    }

    /// Stops the callers; returns the numbers of the accepted orders.
    pub(super) async fn stop(self) -> Vec<Uuid> {
        self.seen.stop.store(true, Ordering::Relaxed);
        self.callers.join_all().await.concat()
    }
}

async fn call(mut orders: OrdersClient, seen: Arc<Seen>) -> Vec<Uuid> {
    let mut accepted = Vec::new();
    while !seen.stop.load(Ordering::Relaxed) {
        match tokio::time::timeout(PATIENCE, try_place(&mut orders, "under fire")).await {
            Ok(Ok(placed)) => {
                accepted.push(placed.order_id);
                seen.accepted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Err(_)) | Err(_) => {
                seen.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    accepted
}

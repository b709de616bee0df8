//! Waiting for the end: nothing is on its way any more, and every order is accounted for.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use countersign_protocol::topology::QUARANTINE;
use countersign_testbed::{Audit, Queue, Rest};
use tokio::time::{Instant, sleep};

use crate::databases::Databases;
use crate::queues::{FIGURES_AGE, Queues};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The wait believes in rest that lasts this long: the broker's figures are a little old.
const BELIEVED_AFTER: Duration = FIGURES_AGE.saturating_mul(4);
/// Orders still missing after this much rest are lost: nothing would move any more.
const LOST_AFTER: Duration = Duration::from_secs(8);

/// How the wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The final figures.
    pub(crate) audit: Audit,
    /// Messages and rows that were still on their way when the deadline passed.
    pub(crate) unrest: Unrest,
}

/// Messages and rows that are still on their way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unrest {
    /// Queues that are not empty.
    queues: Vec<Queue>,
    /// Overdue messages neither confirmed nor closed nor parked.
    open: u64,
}

impl Unrest {
    fn new(queues: Vec<Queue>, open: u64) -> Self {
        let queues = queues.into_iter().filter(|q| q.depth.total() > 0 && !is_final(&q.name));
        Self { queues: queues.collect(), open }
    }

    /// Whether no message or row moves.
    pub(crate) fn is_rest(&self) -> bool {
        self.queues.is_empty() && self.open == 0
    }
}

impl fmt::Display for Unrest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queues = self.queues.iter().map(|Queue { name, depth }| {
            let (all, unacked) = (depth.total(), depth.unacked);
            format!("{all} in {name} ({unacked} of them in a consumer's hand)")
        });
        let open = (self.open > 0).then(|| format!("{} overdue in the ledger", self.open));
        write!(f, "{}", queues.chain(open).collect::<Vec<_>>().join(", "))
    }
}

/// Queues in which messages come to rest.
fn is_final(queue: &str) -> bool {
    queue == QUARANTINE || queue.ends_with(".dead")
}

/// Waits until nothing moves and no order is missing, until the missing orders are certainly lost,
/// or until the deadline.
pub(crate) async fn settle(
    databases: &Databases,
    queues: &Queues,
    deadline: Duration,
) -> Result<Settled> {
    let end = Instant::now() + deadline;
    let mut rest = Rest::default();
    loop {
        let open = databases.progress().await?.open;
        let unrest = Unrest::new(queues.all().await?, open);
        let now = Instant::now();
        let rested = rest.look(unrest.is_rest(), now);
        if now > end || rested.is_some_and(|rested| rested >= BELIEVED_AFTER) {
            let audit = databases.books().await?.audit();
            let is_lost = rested.is_some_and(|rested| rested >= LOST_AFTER);
            if audit.lost.is_empty() || is_lost || now > end {
                return Ok(Settled { audit, unrest });
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use countersign_testbed::Depth;

    use super::*;

    fn queue(name: &str, ready: u64, unacked: u64) -> Queue {
        Queue { name: name.to_owned(), depth: Depth { ready, unacked } }
    }

    #[test]
    fn a_waiting_check_a_held_delivery_and_an_open_row_are_unrest() {
        for unrest in [
            Unrest::new(vec![queue("countersign.check.wait.5s", 1, 0)], 0),
            Unrest::new(vec![queue("logistics.orders", 0, 1)], 0),
            Unrest::new(vec![queue("logistics.orders", 0, 0)], 1),
        ] {
            assert!(!unrest.is_rest(), "{unrest}");
        }
    }

    #[test]
    fn what_came_to_rest_in_dead_and_quarantine_queues_is_none() {
        let unrest = Unrest::new(
            vec![queue("logistics.orders.dead", 3, 0), queue("countersign.quarantine", 1, 0)],
            0,
        );
        assert!(unrest.is_rest(), "{unrest}");
    }

    #[test]
    fn what_was_still_on_its_way_is_named() {
        let unrest = Unrest::new(
            vec![queue("logistics.orders", 2, 1), queue("countersign.confirm.0", 0, 0)],
            4,
        );
        assert_eq!(
            unrest.to_string(),
            "3 in logistics.orders (1 of them in a consumer's hand), 4 overdue in the ledger"
        );
    }
}

//! A test's view of its world's queues, and the harm it does to them.
//!
//! Ready messages are counted exactly: a passive declare asks the queue itself. Messages in a
//! consumer's hands only show in the broker's figures, which are up to [`Vhost::FIGURES_AGE`] old.
//! So a test believes that nothing is left once each look for that long has seen it: see [`Rest`].

use std::time::Duration;

use countersign_amqp::Connection;
use countersign_protocol::Topology;
use countersign_testbed::{Depth, HEALED, Queue, Rest, SOON, Vhost, eventually, in_time};
use serde_json::Value;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::World;

/// The prefix of the queues in which checks wait; each delay has one.
const WAIT_QUEUES: &str = "countersign.check.wait.";
/// The queue of the checks that came due.
const DUE_QUEUE: &str = "countersign.check.due";
/// The pace of looks at all queues. Each look costs the broker a dozen passive declares, and three
/// tests look at a time.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl World {
    /// Takes everything out of a queue, as it comes, until that is so many pieces. Returns how many of
    /// them carry a reason.
    pub(crate) async fn pieces_with_reason(&self, queue: &str, pieces: u64) -> u64 {
        const AT_A_TIME: u64 = 50;
        let (mut taken, mut with_reason) = (0, 0);
        eventually(&format!("{pieces} pieces in {queue}"), HEALED, async || {
            for peeked in self.vhost.take(queue, AT_A_TIME).await {
                // Some garbage brings a header of that name that is no text.
                let reason = peeked.headers.get("countersign-reason").and_then(Value::as_str);
                let pieces = reason.map_or(1, pieces_of);
                taken += pieces;
                with_reason += reason.map_or(0, |_| pieces);
            }
            if taken >= pieces { Ok(()) } else { Err(taken) }
        })
        .await;
        self.holds(queue, 0).await;
        assert_eq!(taken, pieces, "{queue}");
        with_reason
    }

    /// Waits until no check waits, and none that came due is left.
    pub(crate) async fn checks_have_come_due(&self) {
        self.are_at_rest(HEALED, |queue| queue.starts_with(WAIT_QUEUES) || queue == DUE_QUEUE)
            .await;
    }

    /// Destroys the ready messages of a queue, once it has some.
    pub(crate) async fn destroy(&self, queue: &str) {
        self.holds_at_least(queue, 1).await;
        self.vhost.purge(queue).await;
    }

    /// Waits until a queue holds nothing, neither ready nor in a consumer's hands.
    pub(crate) async fn is_empty(&self, queue: &str) {
        self.holds(queue, 0).await;
    }

    /// Waits until a queue holds this many messages, ready or in a consumer's hands.
    pub(crate) async fn holds(&self, queue: &str, messages: u64) {
        let (observer, mut rest, mut pace) = (self.observer().await, Rest::default(), pace());
        eventually(&format!("{queue} holds {messages}"), HEALED, async || {
            pace.tick().await;
            let ready = ready(&observer, queue).await?;
            let unacked = self.vhost.depth(queue).await.unwrap_or_default().unacked;
            is_believed(&mut rest, ready + unacked == messages, (ready, unacked))
        })
        .await;
        observer.close().await;
    }

    /// Waits until a queue holds at least this many messages that no consumer holds.
    pub(crate) async fn holds_at_least(&self, queue: &str, messages: u64) {
        let observer = self.observer().await;
        eventually(&format!("{queue} holds {messages} or more"), SOON, async || {
            match ready(&observer, queue).await {
                Ok(ready) if ready >= messages => Ok(()),
                other => Err(other),
            }
        })
        .await;
        observer.close().await;
    }

    /// Waits until these queues are empty and no message is on its way from one to another.
    pub(super) async fn are_at_rest(&self, deadline: Duration, which: impl Fn(&str) -> bool) {
        let (observer, mut rest, mut pace) = (self.observer().await, Rest::default(), pace());
        eventually("nothing is left in the queues", deadline, async || {
            pace.tick().await;
            let mut left = self.vhost.depths().await;
            left.retain(|queue| which(&queue.name));
            for Queue { name, depth: Depth { ready: counted, .. } } in &mut left {
                *counted = ready(&observer, name).await?;
            }
            left.retain(|queue| queue.depth.total() > 0);
            is_believed(&mut rest, left.is_empty(), left)
        })
        .await;
        observer.close().await;
    }

    /// A connection to look with.
    async fn observer(&self) -> Connection {
        let address = self.vhost.url().parse().expect("the vhost's URL");
        let observer = Connection::start(address, "observer", Topology::default());
        in_time("a connection to look with", observer.ready()).await;
        observer
    }
}

/// How many messages are ready in a queue, exactly.
async fn ready(observer: &Connection, queue: &str) -> Result<u64, String> {
    match observer.count(queue).await {
        Ok(Some(count)) => Ok(count.ready.into()),
        Ok(None) => Err(format!("there is no queue {queue}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a look, and all before it for as long as the broker's figures are old, found the wanted
/// state.
fn is_believed(rest: &mut Rest, is_wanted: bool, seen: impl std::fmt::Debug) -> Result<(), String> {
    match rest.look(is_wanted, Instant::now()) {
        Some(lasted) if lasted >= Vhost::FIGURES_AGE => Ok(()),
        lasted => Err(format!("{seen:?}, as wanted for {lasted:?}")),
    }
}

fn pace() -> Interval {
    let mut pace = tokio::time::interval(LOOK_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// How many entries a message in quarantine stands for: the reason of several says so.
fn pieces_of(reason: &str) -> u64 {
    let words: Vec<&str> = reason.splitn(5, ' ').collect();
    match words.as_slice() {
        [refused, "of", _, "entries:", _] => refused.parse().unwrap_or(1),
        _ => 1,
    }
}

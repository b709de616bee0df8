//! Whether a message still lies in its consumer's backlog: decided from how far the consumer's
//! confirms say it is, and from what lies in its queues.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_protocol::{Name, UnixMillis};

use crate::rules::overdue::{Overdue, Policy};

/// How much further a consumer has to be than a message for it to be missing there: messages
/// overtake each other. Several handlers run at once and finish as they like; an upstream's
/// replicas publish at the same time, with clocks that differ a little; and a message's check is
/// armed a transaction before it is published. Too long only makes what is lost in a backlog heal
/// that much later.
const SLACK: Duration = Duration::from_secs(5);

/// What is known beyond a message itself, read before what is recorded about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    /// What was with the broker before this moment is recorded, on the database's clock. `None` if
    /// that is not known yet.
    pub(crate) watermark: Option<UnixMillis>,
    /// How far consumers are.
    pub(crate) progress: Vec<Progress>,
    /// What lies in their queues.
    pub(crate) depths: BTreeMap<String, Depth>,
}

/// How far a consumer is with the messages of one upstream that it gets through one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Whose confirms.
    pub(crate) consumer: Name,
    /// Through which queue.
    pub(crate) queue: String,
    /// Whose messages.
    pub(crate) upstream: Name,
    /// The newest publish that it has had in hand, on the upstream's clock, if it says.
    pub(crate) confirmed_up_to: Option<UnixMillis>,
}

/// What a queue was last found to hold. Times are on the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    /// When the reading was begun.
    pub(crate) read_at: UnixMillis,
    /// When it was last known to be empty, with everything recorded that had left it confirmed.
    pub(crate) empty_at: Option<UnixMillis>,
    /// What no consumer holds.
    pub(crate) ready: u64,
    /// What no consumer holds and what consumers hold, a little ago. `None` if unknown.
    pub(crate) held: Option<u64>,
}

/// Where a consumer that has not confirmed a message is in its backlog, compared with that message.
/// In the order of certainty that a resend would come too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BacklogPosition {
    /// The message is not in the backlog: the consumer has not got it, or is done with it without
    /// having confirmed it.
    Missing,
    /// The consumer has never confirmed a message of this upstream: the message counts as missing
    /// from this moment on.
    NeverSeen(UnixMillis),
    /// Neither confirms nor queues tell whether the message is in the backlog: it counts as missing
    /// from this moment on.
    Unclear(UnixMillis),
    /// The message may be in the backlog, which holds this many.
    Behind(u64),
}

/// The readings that would make a position clearer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What lies in these queues.
    pub(crate) queues: Vec<String>,
    /// A marker sent after this moment.
    pub(crate) marker_after: Option<UnixMillis>,
}

impl Whereabouts {
    /// Where `consumer` is in its backlog at `now`, once its confirm of the message cannot be under
    /// way.
    #[must_use]
    pub(crate) fn position(
        &self,
        consumer: &Name,
        overdue: &Overdue,
        policy: &Policy,
        now: UnixMillis,
    ) -> BacklogPosition {
        let judged_at = overdue.missing_after.after(policy.backlog_grace);
        let queues = self.queues(consumer, overdue);
        let by_queue = queues.iter().map(|queue| self.in_queue(queue, overdue, policy));
        // The message may have come through any of them.
        let position = by_queue.max().unwrap_or(BacklogPosition::NeverSeen(judged_at));
        match position {
            BacklogPosition::NeverSeen(at) | BacklogPosition::Unclear(at) if at <= now => {
                BacklogPosition::Missing
            }
            position => position,
        }
    }

    /// The readings that would make `consumer`'s position clearer.
    #[must_use]
    pub(crate) fn wanted(&self, consumer: &Name, overdue: &Overdue, policy: &Policy) -> Wanted {
        let mut queues = self.queues(consumer, overdue);
        queues.retain(|queue| !passed(queue, overdue));
        let marker_after = queues.iter().filter_map(|queue| {
            let depth = self.depths.get(queue.queue)?;
            let found_empty = depth.ready == 0 && depth.held == Some(0);
            (found_empty && as_of(depth.read_at, policy) > overdue.missing_after)
                .then_some(depth.read_at)
        });
        Wanted {
            marker_after: marker_after.max(),
            queues: queues.iter().map(|queue| queue.queue.to_owned()).collect(),
        }
    }

    fn queues(&self, consumer: &Name, overdue: &Overdue) -> Vec<Queue<'_>> {
        let of_consumer = || self.progress.iter().filter(|progress| progress.consumer == *consumer);
        let own = |progress: &&Progress| progress.upstream == overdue.key.upstream;
        let mut queues: Vec<Queue<'_>> = of_consumer()
            .filter(own)
            .map(|p| Queue { queue: &p.queue, confirmed_up_to: p.confirmed_up_to })
            .collect();
        if queues.is_empty() {
            // Other upstreams' times say nothing, but their messages lie in the same queues.
            queues =
                of_consumer().map(|p| Queue { queue: &p.queue, confirmed_up_to: None }).collect();
            queues.sort_unstable_by_key(|queue| queue.queue);
            queues.dedup_by_key(|queue| queue.queue);
        }
        queues
    }

    fn in_queue(&self, queue: &Queue<'_>, overdue: &Overdue, policy: &Policy) -> BacklogPosition {
        if passed(queue, overdue) {
            return BacklogPosition::Missing;
        }
        let unclear = overdue.missing_after.after(policy.backlog_grace);
        let Some(depth) = self.depths.get(queue.queue) else {
            return BacklogPosition::Unclear(unclear);
        };
        let recorded = |at: &UnixMillis| self.watermark.is_some_and(|mark| mark > *at);
        let found_empty = (depth.ready == 0 && depth.held == Some(0)).then_some(depth.read_at);
        let empty_at = depth.empty_at.max(found_empty.filter(recorded));
        if empty_at.is_some_and(|at| as_of(at, policy) > overdue.missing_after) {
            return BacklogPosition::Missing;
        }
        // What was read before the message could be missing says nothing any more.
        let current = depth.read_at > overdue.missing_after;
        match (depth.ready.max(depth.held.unwrap_or(0)), depth.held) {
            (0, Some(_)) => BacklogPosition::Unclear(unclear.after(policy.management_lag)),
            (0, None) => BacklogPosition::Unclear(unclear),
            (waiting, _) if current => BacklogPosition::Behind(waiting),
            _ => BacklogPosition::Unclear(unclear),
        }
    }
}

/// A queue that a message may have come through.
#[derive(Clone, Copy, Debug)]
struct Queue<'a> {
    queue: &'a str,
    confirmed_up_to: Option<UnixMillis>,
}

/// The moment that the figures of a reading cannot be older than.
fn as_of(read_at: UnixMillis, policy: &Policy) -> UnixMillis {
    read_at.before(policy.management_lag)
}

/// Whether the consumer has had something in hand that was sent a good while after the message.
fn passed(queue: &Queue<'_>, overdue: &Overdue) -> bool {
    let (Some(up_to), Some(sent_at)) = (queue.confirmed_up_to, overdue.sent_at) else {
        return false;
    };
    up_to > sent_at.after(SLACK)
}

#[cfg(test)]
mod tests;

//! Whether a message still lies in its consumer's backlog: decided from how far the consumer's
//! confirms say it is, and from what lies in its queues.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_protocol::{Name, UnixMillis};

use crate::rules::overdue::{Overdue, Policy};
use crate::rules::passing::Passing;

/// How much further a consumer has to be than a message for it to be missing there: messages
/// overtake each other. Several handlers run at once and finish as they like; an upstream's
/// replicas publish at the same time, with clocks that differ a little; and a message's check is
/// armed a transaction before it is published. Too long only makes what is lost in a backlog heal
/// that much later.
const SLACK: Duration = Duration::from_secs(5);

/// A queue without a consumer whose number of messages has stayed the same for so long has been left: it
/// was renamed, or its consumer is no more. Longer than a rollout or a restart of a consumer takes. A
/// resend that the broker routes there changes the number, so that the time begins anew.
pub(crate) const LEFT_AFTER: Duration = Duration::from_secs(10 * 60);

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

/// What is known of a queue. Times are on the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    /// When a replica last began to look into it.
    pub(crate) looked_at: UnixMillis,
    /// Since when replicas have done so again and again.
    pub(crate) looked_since: UnixMillis,
    /// What it was last found to hold.
    pub(crate) reading: Option<Reading>,
    /// When it was last known to be empty, with everything recorded that had left it confirmed.
    pub(crate) empty_at: Option<UnixMillis>,
    /// Since when it is told as one without messages and without consumers, which may be no answer.
    pub(crate) nobody_since: Option<UnixMillis>,
    /// Since when it has had no consumer, and always the same number of messages.
    pub(crate) left_since: Option<UnixMillis>,
    /// The count of confirms that is to tell when its consumers have passed what lay in it.
    pub(crate) passing: Option<Passing>,
    /// What lay in it before this moment has been passed, as such a count has told.
    pub(crate) passed_to: Option<UnixMillis>,
}

/// What a queue was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// When the reading was begun.
    pub(crate) at: UnixMillis,
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
    /// way. The consumer may have got the message until the moment `from`.
    #[must_use]
    pub(crate) fn position(
        &self,
        consumer: &Name,
        overdue: &Overdue,
        from: UnixMillis,
        policy: &Policy,
        now: UnixMillis,
    ) -> BacklogPosition {
        let waited = Waited { overdue, from, policy, now };
        let queues = self.queues(consumer, overdue);
        let by_queue: Vec<(BacklogPosition, bool)> = queues
            .iter()
            .map(|queue| (self.in_queue(queue, &waited), self.is_left(queue, &waited)))
            .collect();
        let missing_elsewhere = by_queue.iter().any(|(at, left)| !left && waited.is_over(*at));
        // The message may have come through any of them; through one that was left only if the consumer
        // gets no messages through another.
        let relevant = by_queue.iter().filter(|(_, left)| !(*left && missing_elsewhere));
        let position = relevant.map(|(at, _)| *at).max();
        let judged_at = from.after(policy.backlog_grace);
        let position = position.unwrap_or(BacklogPosition::NeverSeen(judged_at));
        if waited.is_over(position) { BacklogPosition::Missing } else { position }
    }

    /// The readings that would make `consumer`'s position clearer.
    #[must_use]
    pub(crate) fn wanted(
        &self,
        consumer: &Name,
        overdue: &Overdue,
        from: UnixMillis,
        policy: &Policy,
    ) -> Wanted {
        let mut queues = self.queues(consumer, overdue);
        queues.retain(|queue| !passed(queue, overdue));
        let marker_after = queues.iter().filter_map(|queue| {
            let depth = self.depths.get(queue.queue)?;
            let reading = depth.reading.filter(Reading::is_empty);
            let found_empty = reading.map(|reading| reading.at);
            let found_empty = found_empty.filter(|at| as_of(*at, policy) > from);
            found_empty.max(depth.passing.and_then(Passing::awaits))
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

    fn in_queue(&self, queue: &Queue<'_>, waited: &Waited<'_>) -> BacklogPosition {
        let Waited { overdue, from, policy, now } = *waited;
        if passed(queue, overdue) {
            return BacklogPosition::Missing;
        }
        let Some(depth) = self.depths.get(queue.queue) else {
            return BacklogPosition::Unclear(now.after(policy.backlog_grace));
        };
        let recorded = |at: &UnixMillis| self.watermark.is_some_and(|mark| mark > *at);
        let reading = depth.reading;
        let found_empty = reading.filter(Reading::is_empty).map(|reading| reading.at);
        // What lies in the future was left by a clock that was set back.
        let is_past = |at: &UnixMillis| *at <= now;
        let empty_at = depth.empty_at.max(found_empty.filter(recorded)).filter(is_past);
        if empty_at.is_some_and(|at| as_of(at, policy) > from)
            || depth.passed_to.filter(is_past).is_some_and(|to| to > from)
        {
            return BacklogPosition::Missing;
        }
        // The grace begins when a replica can look. A queue that nobody has looked into since the message
        // may be missing has used up none of it.
        let looked = if depth.looked_at > from { depth.looked_since.max(from) } else { now };
        let begun = looked.max(depth.nobody_since.unwrap_or(looked));
        let unclear = begun.after(policy.backlog_grace);
        // What was read before the message could be missing says nothing any more; nor does a reading
        // that was followed by one that may be no answer.
        let current = reading.filter(|reading| reading.at > from && depth.nobody_since.is_none());
        match reading.map(|reading| (reading.ready.max(reading.held.unwrap_or(0)), reading.held)) {
            Some((0, Some(_))) => BacklogPosition::Unclear(unclear.after(policy.management_lag)),
            Some((waiting, _)) if waiting > 0 && current.is_some() => {
                BacklogPosition::Behind(waiting)
            }
            _ => BacklogPosition::Unclear(unclear),
        }
    }

    /// Whether a queue was found for long without a consumer, always with the same messages.
    fn is_left(&self, queue: &Queue<'_>, waited: &Waited<'_>) -> bool {
        self.depths.get(queue.queue).is_some_and(|depth| {
            let current = depth.reading.is_some_and(|reading| reading.at > waited.from);
            current && depth.left_since.is_some_and(|since| waited.now.since(since) >= LEFT_AFTER)
        })
    }
}

impl Reading {
    /// Whether nothing lay in the queue, neither ready nor with a consumer.
    fn is_empty(&self) -> bool {
        self.ready == 0 && self.held == Some(0)
    }
}

/// A message that a consumer is waited for with.
#[derive(Clone, Copy, Debug)]
struct Waited<'a> {
    overdue: &'a Overdue,
    from: UnixMillis,
    policy: &'a Policy,
    now: UnixMillis,
}

impl Waited<'_> {
    /// Whether a message at this position counts as missing by now.
    fn is_over(&self, position: BacklogPosition) -> bool {
        match position {
            BacklogPosition::Missing => true,
            BacklogPosition::NeverSeen(at) | BacklogPosition::Unclear(at) => at <= self.now,
            BacklogPosition::Behind(_) => false,
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

//! The answers of upstreams, written to the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_protocol::{DatabaseId, Name};
use countersign_retry::Retry;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::heal::upstreams::Upstreams;
use crate::ledger::{Ledger, Tallies};
use crate::log;

use crate::rules::budget::{Pacing, confirmed_canaries};
use crate::rules::overdue::{Key, Overdue, Policy, Recorded, Transition};
use crate::rules::states::Lease;
use crate::rules::upstream_answer::{self, Answer};

/// How many answers are written in one transaction, and how many may wait for it. About three times
/// the calls that one upstream gets at once: more would only hold the locks for longer.
pub(crate) const WRITTEN_AT_ONCE: usize = 200;

/// The answer of an upstream that was asked for a message.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The row that the upstream was asked for.
    pub(crate) key: Key,
    /// The database that the upstream was asked to have.
    pub(crate) database: Option<DatabaseId>,
    /// The lease under which the replica made the call.
    pub(crate) lease: Lease,
    /// The answer, or why there is none.
    pub(crate) answer: Answer,
}

/// Writes answers to the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    /// The database with the overdue rows.
    pub(crate) ledger: Ledger,
    /// The upstreams, whose rate limit is lifted when a resend was not needed.
    pub(crate) upstreams: Upstreams,
    /// How long the service waits for the confirm of a resend, and when it gives a message up.
    pub(crate) policy: Policy,
    /// How many resends an upstream's budget saves up.
    pub(crate) pacing: Pacing,
    /// Starts a round when a rate limit was lifted.
    pub(crate) wake: Arc<Notify>,
}

impl Answers {
    /// Writes answers until every sender is dropped.
    ///
    /// While the database is away, answers wait; after `shutdown` they are left: their leases run
    /// out, and the attempts count as used.
    pub(crate) async fn run(
        self,
        mut answers: mpsc::Receiver<Answered>,
        shutdown: CancellationToken,
    ) {
        let mut retry =
            Retry::new("write down what upstreams answered").felt_by(self.ledger.pulse());
        let mut batch = Vec::with_capacity(WRITTEN_AT_ONCE);
        while answers.recv_many(&mut batch, WRITTEN_AT_ONCE).await > 0 {
            while let Err(error) = self.write(&batch).await {
                if retry.wait(&error, &shutdown).await.is_err() {
                    break;
                }
            }
            retry.worked();
            batch.clear();
        }
    }

    async fn write(&self, answered: &[Answered]) -> Result<(), sqlx::Error> {
        let by_lease: BTreeMap<(&Key, Uuid), &Answered> =
            answered.iter().map(|a| ((&a.key, a.lease.token), a)).collect();
        let by_key: BTreeMap<&Key, &Answered> = answered.iter().map(|a| (&a.key, a)).collect();
        let keys: Vec<Key> = by_key.keys().copied().cloned().collect();
        let Some(mut taken) = self.ledger.take(&keys).await? else { return Ok(()) };
        let other_database = Answer::Misdirected {
            why: "the database that was asked is no longer the one that is meant".to_owned(),
            is_other_upstream: false,
        };
        let after_answer = |(overdue, recorded): &(Overdue, Recorded)| {
            let answered = match overdue.state.lease() {
                // While a replica asks, only the answer to its own call counts.
                Some(lease) => by_lease.get(&(&overdue.key, lease.token)),
                None => by_key.get(&overdue.key),
            };
            let Answered { answer, database, .. } = answered?;
            // A check that came meanwhile may have named another database, which may have the message.
            let is_of_row = overdue.origin.database() == *database;
            let answer = if answer.is_last_word() && !is_of_row { &other_database } else { answer };
            let jitter = fastrand::f64();
            upstream_answer::after_answer(
                overdue,
                recorded,
                answer,
                &self.policy,
                taken.now,
                jitter,
            )
        };
        let transitions: Vec<Transition> = taken.rows.iter().filter_map(after_answer).collect();
        let (tallies, unused) = count(answered);
        let confirmed = confirmed_canaries(&transitions);
        taken.heard(&tallies, &unused, &confirmed, &self.pacing).await?;
        taken.write(&transitions).await?;
        transitions.iter().for_each(log::transition);
        for upstream in unused.keys() {
            self.upstreams.lift_limit(upstream);
            self.wake.notify_one();
        }
        Ok(())
    }
}

/// How many answers of each upstream say that a message was missing, and how many calls led to no resend.
fn count(answered: &[Answered]) -> (Tallies, BTreeMap<Name, u32>) {
    let (mut tallies, mut unused) = (Tallies::new(), BTreeMap::new());
    for Answered { key, answer, .. } in answered {
        if let Some(missing) = answer.says_missing() {
            let tally = tallies.entry(key.upstream.clone()).or_default();
            tally.missing += u64::from(missing);
            tally.not_missing += u64::from(!missing);
        }
        if !answer.may_have_sent() {
            *unused.entry(key.upstream.clone()).or_default() += 1;
        }
    }
    (tallies, unused)
}

//! How deliveries take effect: once, with an inbox; at least once, without.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use countersign_postgres::{Trouble, trouble};
use futures_util::FutureExt;

use crate::after_try::TryEnd;
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::handler::{BatchHandler, Handler};
use crate::inbox::{self, Claim, Inbox, Uncommitted};

/// Runs a handler on deliveries.
pub(crate) trait Effect: Send + Sync + 'static {
    /// One try at a group.
    ///
    /// # Cancel safety
    /// As if the process had died there.
    fn attempt(&self, group: &mut [Delivery]) -> impl Future<Output = TryEnd> + Send;
}

/// Claims, handles and commits in one transaction with the inbox's rows.
pub(crate) struct Once<H> {
    pub(crate) handler: H,
    pub(crate) inbox: Inbox,
    pub(crate) handler_timeout: Option<Duration>,
}

/// Runs the handler on every delivery: without an inbox, the consumer does not know which took effect before.
pub(crate) struct AtLeastOnce<H> {
    pub(crate) handler: H,
    pub(crate) handler_timeout: Option<Duration>,
}

impl<H: BatchHandler> Effect for Once<H> {
    async fn attempt(&self, group: &mut [Delivery]) -> TryEnd {
        let (mut transaction, count) = match self.inbox.claim(group).await {
            Ok(Claim::Won { transaction, count }) => (transaction, count),
            Ok(Claim::AllDuplicates) => return TryEnd::Duplicate,
            Ok(Claim::OfAnotherQueue { queue }) => return TryEnd::Failed(of_another_queue(&queue)),
            Err(why) => return TryEnd::DatabaseAway(why),
        };
        let claimed = &group[..count];
        let handling = async { self.handler.handle_batch(transaction.for_user(), claimed).await };
        let ended = tokio::select! {
            biased;
            ended = guarded(self.handler_timeout, handling) => ended,
            () = self.inbox.lost(claimed[0].id()) => {
                let why = "the server has lost the transaction that the handler works in";
                Err(TryEnd::DatabaseAway(why.to_owned()))
            }
        };
        let ended = match ended {
            Ok(()) => return committed(inbox::commit(transaction).await),
            Err(ended @ TryEnd::DatabaseAway(_)) => {
                transaction.abandon();
                return ended;
            }
            Err(ended @ TryEnd::TimedOut(_)) => {
                // The transaction may be in the middle of a statement: it is rolled back behind that, not waited for.
                drop(transaction);
                return self.inbox.answers().await.map_or_else(TryEnd::DatabaseAway, |()| ended);
            }
            Err(ended) => ended,
        };
        match (inbox::roll_back(transaction).await, ended) {
            (Ok(()), ended) | (Err(_), ended @ TryEnd::Failed(Failure::Reject(_))) => ended,
            // The connection died under the handler, and the handler's error is most likely about that. It
            // counts as an interruption, or a message that kills connections would be tried for ever.
            (Err(why), _) => TryEnd::Failed(Failure::Interrupted(why)),
        }
    }
}

impl<H: Handler<()>> Effect for AtLeastOnce<H> {
    async fn attempt(&self, group: &mut [Delivery]) -> TryEnd {
        for delivery in group {
            let handling = async { self.handler.handle(&mut (), delivery).await };
            if let Err(ended) = guarded(self.handler_timeout, handling).await {
                return ended;
            }
        }
        TryEnd::Committed
    }
}

/// A consumer's name stands for one effect: whether this queue's effect is the one that happened, is not known.
fn of_another_queue(queue: &str) -> Failure {
    Failure::Reject(format!(
        "a consumer of this name has processed the message from queue {queue:?}: give each queue's consumer a name of its own, and name both to the upstream"
    ))
}

/// Drives a handler to its end, whatever that is.
async fn guarded(
    limit: Option<Duration>,
    handling: impl Future<Output = Result<(), Failure>>,
) -> Result<(), TryEnd> {
    // The handler is shared by tasks anyway, and its transaction is rolled back: no reader sees what a panic
    // left half done.
    let handling = AssertUnwindSafe(handling).catch_unwind();
    let result = match limit {
        None => handling.await,
        Some(limit) => {
            tokio::time::timeout(limit, handling).await.map_err(|_| TryEnd::TimedOut(limit))?
        }
    };
    match result {
        Ok(handled) => handled.map_err(TryEnd::Failed),
        Err(panic) => Err(TryEnd::Panicked(said(&*panic))),
    }
}

fn committed(result: Result<(), Uncommitted>) -> TryEnd {
    match result {
        Ok(()) => {
            fail::fail_point!("consumer.committed", |_| std::process::abort());
            TryEnd::Committed
        }
        Err(Uncommitted::Unknown(why)) => TryEnd::DatabaseAway(why),
        Err(Uncommitted::EndedEarly) => {
            let why = "the handler ended the transaction itself: COMMIT and ROLLBACK are not its business";
            TryEnd::NotCommitted(Failure::Interrupted(why.to_owned()))
        }
        Err(Uncommitted::Refused(e)) => {
            let why = format!("the database would not commit: {e}");
            match trouble(&e) {
                Trouble::Again => TryEnd::NotCommitted(Failure::Interrupted(why)),
                Trouble::Data | Trouble::Other => TryEnd::NotCommitted(Failure::Retry(why)),
            }
        }
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it said nothing".to_owned())
}

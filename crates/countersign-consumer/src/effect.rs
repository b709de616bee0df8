//! How deliveries take effect: once, with an inbox; at least once, without.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use countersign_postgres::{Trouble, trouble};
use futures_util::FutureExt;

use crate::decision::Ended;
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
    fn attempt(&self, group: &mut [Delivery]) -> impl Future<Output = Ended> + Send;
}

/// In one transaction with the inbox's rows: claim, handler, commit.
pub(crate) struct WithInbox<H> {
    pub(crate) handler: H,
    pub(crate) inbox: Inbox,
    pub(crate) handler_timeout: Option<Duration>,
}

/// Nobody knows what has taken effect before.
pub(crate) struct WithoutInbox<H> {
    pub(crate) handler: H,
    pub(crate) handler_timeout: Option<Duration>,
}

impl<H: BatchHandler> Effect for WithInbox<H> {
    async fn attempt(&self, group: &mut [Delivery]) -> Ended {
        let (mut transaction, count) = match self.inbox.claim(group).await {
            Ok(Claim::Won { transaction, count }) => (transaction, count),
            Ok(Claim::AllDuplicates) => return Ended::Duplicate,
            Err(why) => return Ended::DatabaseAway(why),
        };
        let claimed = &group[..count];
        let handling = async { self.handler.handle_batch(&mut transaction, claimed).await };
        let ended = match guarded(self.handler_timeout, handling).await {
            Ok(()) => return committed(inbox::commit(transaction).await),
            Err(ended @ Ended::TimedOut(_)) => {
                // In the middle of a statement, perhaps: it is rolled back behind that, not waited for.
                drop(transaction);
                return self.inbox.answers().await.map_or_else(Ended::DatabaseAway, |()| ended);
            }
            Err(ended) => ended,
        };
        match (inbox::roll_back(transaction).await, ended) {
            (Ok(()), ended) | (Err(_), ended @ Ended::Failed(Failure::Reject(_))) => ended,
            // The connection died under the handler: what it complains of is most likely that. It
            // counts as an interruption, lest a message that kills connections is tried for ever.
            (Err(why), _) => Ended::Failed(Failure::Interrupted(why)),
        }
    }
}

impl<H: Handler<()>> Effect for WithoutInbox<H> {
    async fn attempt(&self, group: &mut [Delivery]) -> Ended {
        for delivery in group {
            let handling = async { self.handler.handle(&mut (), delivery).await };
            if let Err(ended) = guarded(self.handler_timeout, handling).await {
                return ended;
            }
        }
        Ended::Committed
    }
}

/// Drives a handler to its end, whatever that is.
async fn guarded(
    limit: Option<Duration>,
    handling: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Ended> {
    // The handler is shared by tasks anyway, and its transaction is rolled back: nothing that a
    // panic left half done is seen by anybody.
    let handling = AssertUnwindSafe(handling).catch_unwind();
    let result = match limit {
        None => handling.await,
        Some(limit) => {
            tokio::time::timeout(limit, handling).await.map_err(|_| Ended::TimedOut(limit))?
        }
    };
    match result {
        Ok(handled) => handled.map_err(Ended::Failed),
        Err(panic) => Err(Ended::Panicked(said(&*panic))),
    }
}

fn committed(result: Result<(), Uncommitted>) -> Ended {
    match result {
        Ok(()) => {
            fail::fail_point!("consumer.committed", |_| std::process::abort());
            Ended::Committed
        }
        Err(Uncommitted::Unknown(why)) => Ended::DatabaseAway(why),
        Err(Uncommitted::EndedEarly) => {
            let why = "the handler ended the transaction itself: COMMIT and ROLLBACK are not its business";
            Ended::NotCommitted(Failure::Interrupted(why.to_owned()))
        }
        Err(Uncommitted::Refused(e)) => {
            let why = format!("the database would not commit: {e}");
            match trouble(&e) {
                Trouble::Again => Ended::NotCommitted(Failure::Interrupted(why)),
                Trouble::Data | Trouble::Other => Ended::NotCommitted(Failure::Retry(why)),
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

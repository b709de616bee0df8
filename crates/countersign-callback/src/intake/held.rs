//! Deliveries that wait for the quarantine.

use countersign_amqp::DeliveryTag;
use tokio::task::{JoinError, JoinSet};

use crate::intake::quarantine::Quarantined;

/// What has to be in quarantine before these deliveries are acked.
#[derive(Default)]
pub(super) struct Held {
    pub(super) things: Vec<Quarantined>,
    pub(super) tags: Vec<DeliveryTag>,
}

/// What is on its way to quarantine, of one consumer in one epoch.
#[derive(Default)]
pub(super) struct Quarantining {
    tasks: JoinSet<()>,
    tag: Option<DeliveryTag>,
}

impl Quarantining {
    /// Begins with deliveries of which this is one. Those of an epoch that has ended are left: the broker has
    /// delivered them again, and each epoch would add as many as the prefetch.
    pub(super) fn begin(
        &mut self,
        tag: DeliveryTag,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        if self.tag.is_some_and(|last| !last.is_of_epoch_of(tag)) {
            self.leave();
        }
        self.tag = Some(tag);
        while let Some(ended) = self.tasks.try_join_next() {
            panic_again(ended);
        }
        self.tasks.spawn(work);
    }

    /// Leaves all of them to the broker.
    pub(super) fn leave(&mut self) {
        self.tasks.abort_all();
    }

    /// Waits for the rest.
    pub(super) async fn finish(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            panic_again(ended);
        }
    }
}

/// A task that was aborted has left its deliveries to the broker; one that panicked takes the service along.
fn panic_again(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

//! A broker that takes no confirms, and whether it has for too long.

use std::time::Duration;

use countersign_amqp::LinkState;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock;

/// Says whether a consumer acks without waiting until the broker has the confirm.
///
/// Under a memory alarm the broker still delivers, but takes no confirm. If the consumer held each delivery
/// until its confirm is out, no queue would drain, and the alarm would stay.
#[derive(Clone, Debug)]
pub(crate) struct BlockedBroker {
    too_long: watch::Receiver<bool>,
}

impl BlockedBroker {
    /// The state of a broker that may block `link` for `grace`; and the task that watches the link.
    pub(crate) fn new(
        link: watch::Receiver<LinkState>,
        grace: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, too_long) = watch::channel(false);
        let watching = async move {
            // The watching ends with the connection.
            let _ = watch_link(link, grace, &sender).await;
        };
        (Self { too_long }, watching)
    }

    pub(crate) fn is_too_long(&self) -> bool {
        *self.too_long.borrow()
    }

    /// Waits until the broker has blocked the link for too long.
    pub(crate) async fn too_long(&self) {
        let mut too_long = self.too_long.clone();
        if too_long.wait_for(|too_long| *too_long).await.is_err() {
            // The watching task has ended with the connection, so the state stays as it is.
            std::future::pending::<()>().await;
        }
    }
}

async fn watch_link(
    mut link: watch::Receiver<LinkState>,
    grace: Duration,
    too_long: &watch::Sender<bool>,
) -> Result<(), watch::error::RecvError> {
    let blocked = |state: &LinkState| matches!(state, LinkState::Blocked { .. });
    loop {
        link.wait_for(blocked).await?;
        tokio::select! {
            unblocked = link.wait_for(|state| !blocked(state)) => {
                unblocked?;
                continue;
            }
            () = tokio::time::sleep(grace) => {}
        }
        warn!(
            blocked_ms = clock::ms(grace),
            "the broker takes no confirms: acking without them, so that its queues can drain"
        );
        too_long.send_replace(true);
        link.wait_for(|state| !blocked(state)).await?;
        too_long.send_replace(false);
        info!("the broker takes confirms again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn blocked() -> LinkState {
        LinkState::Blocked { why: "low on memory".to_owned() }
    }

    /// Lets the watching task see what was sent.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_broker_blocks_for_too_long_after_the_grace_until_it_takes_messages_again() {
        let (link, state) = watch::channel(LinkState::Up);
        let (broker, watching) = BlockedBroker::new(state, GRACE);
        tokio::spawn(watching);
        link.send_replace(blocked());
        settle().await;
        tokio::time::advance(GRACE - Duration::from_millis(100)).await;
        settle().await;
        assert!(!broker.is_too_long());
        tokio::time::advance(Duration::from_millis(200)).await;
        broker.too_long().await;
        assert!(broker.is_too_long());
        link.send_replace(LinkState::Up);
        settle().await;
        assert!(!broker.is_too_long());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_block_starts_the_count_anew() {
        let (link, state) = watch::channel(LinkState::Up);
        let (broker, watching) = BlockedBroker::new(state, GRACE);
        tokio::spawn(watching);
        for _ in 0..3 {
            link.send_replace(blocked());
            settle().await;
            tokio::time::advance(GRACE * 2 / 3).await;
            settle().await;
            link.send_replace(LinkState::Up);
            settle().await;
        }
        assert!(!broker.is_too_long());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_away_is_no_alarm() {
        let (link, state) = watch::channel(LinkState::Up);
        let (broker, watching) = BlockedBroker::new(state, GRACE);
        tokio::spawn(watching);
        link.send_replace(LinkState::Connecting { why: "refused".to_owned() });
        settle().await;
        tokio::time::advance(GRACE * 10).await;
        settle().await;
        assert!(!broker.is_too_long());
    }
}

//! How long a blocked broker has kept confirms back, and whether that is long enough.

use std::time::Duration;

use countersign_amqp::LinkState;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock;

/// Says whether to ack without waiting for the broker to have the confirm.
///
/// Under a memory alarm the broker still delivers, but takes no confirm. If deliveries were held
/// until their confirm is out, nothing would drain, and the alarm would stay.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    lost: watch::Receiver<bool>,
}

impl Patience {
    /// Patience that is lost when `link` has been blocked for `limit`, and regained when it is not
    /// blocked any more; and the task that watches over it.
    pub(crate) fn new(
        link: watch::Receiver<LinkState>,
        limit: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, lost) = watch::channel(false);
        let watching = async move {
            // It ends with the connection.
            let _ = watch_link(link, limit, &sender).await;
        };
        (Self { lost }, watching)
    }

    pub(crate) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until it is lost.
    pub(crate) async fn lost(&self) {
        let mut lost = self.lost.clone();
        if lost.wait_for(|lost| *lost).await.is_err() {
            // Nobody watches any more, so it stays as it is.
            std::future::pending::<()>().await;
        }
    }
}

async fn watch_link(
    mut link: watch::Receiver<LinkState>,
    limit: Duration,
    lost: &watch::Sender<bool>,
) -> Result<(), watch::error::RecvError> {
    let blocked = |state: &LinkState| matches!(state, LinkState::Blocked { .. });
    loop {
        link.wait_for(blocked).await?;
        tokio::select! {
            unblocked = link.wait_for(|state| !blocked(state)) => {
                unblocked?;
                continue;
            }
            () = tokio::time::sleep(limit) => {}
        }
        warn!(
            blocked_ms = clock::ms(limit),
            "the broker takes no confirms: acking without them, so that its queues can drain"
        );
        lost.send_replace(true);
        link.wait_for(|state| !blocked(state)).await?;
        lost.send_replace(false);
        info!("the broker takes confirms again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn blocked() -> LinkState {
        LinkState::Blocked { why: "low on memory".to_owned() }
    }

    /// Lets the watching task see what was sent.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_lost_after_the_limit_and_regained_when_the_broker_takes_messages_again() {
        let (link, state) = watch::channel(LinkState::Up);
        let (patience, watching) = Patience::new(state, LIMIT);
        tokio::spawn(watching);
        link.send_replace(blocked());
        settle().await;
        tokio::time::advance(LIMIT - Duration::from_millis(100)).await;
        settle().await;
        assert!(!patience.is_lost());
        tokio::time::advance(Duration::from_millis(200)).await;
        patience.lost().await;
        assert!(patience.is_lost());
        link.send_replace(LinkState::Up);
        settle().await;
        assert!(!patience.is_lost());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_block_starts_the_count_anew() {
        let (link, state) = watch::channel(LinkState::Up);
        let (patience, watching) = Patience::new(state, LIMIT);
        tokio::spawn(watching);
        for _ in 0..3 {
            link.send_replace(blocked());
            settle().await;
            tokio::time::advance(LIMIT * 2 / 3).await;
            settle().await;
            link.send_replace(LinkState::Up);
            settle().await;
        }
        assert!(!patience.is_lost());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_away_is_no_alarm() {
        let (link, state) = watch::channel(LinkState::Up);
        let (patience, watching) = Patience::new(state, LIMIT);
        tokio::spawn(watching);
        link.send_replace(LinkState::Connecting { why: "refused".to_owned() });
        settle().await;
        tokio::time::advance(LIMIT * 10).await;
        settle().await;
        assert!(!patience.is_lost());
    }
}

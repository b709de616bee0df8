//! How far consumers are: for an operator who asks, and for the log when a consumer makes no progress.

use std::time::Duration;

use countersign_protocol::UnixMillis;
use countersign_retry::Retry;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ledger::{Ledger, Watched};
use crate::rules::verdict::in_words;

/// A consumer that confirms nothing new for so long while messages wait for it makes no progress.
/// Longer than handlers take, so that a slow consumer is not called stuck.
const STALLED_AFTER: Duration = Duration::from_secs(15);

/// How often each replica looks whether a consumer makes no progress: a third of the time after which
/// it makes none, so that the log tells of it at most that third later.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The progress of a consumer with the messages of one upstream. The names are those of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    NeverSeen,
    Idle,
    Progressing,
    NoProgress { for_ms: i64 },
}

impl Doing {
    pub(crate) fn of(watched: &Watched) -> Self {
        let Some(progressed_at) = watched.progressed_at_ms else { return Self::NeverSeen };
        let Some(waiting_since) = watched.waiting_since_ms else { return Self::Idle };
        let for_ms = watched.now_ms.saturating_sub(progressed_at.max(waiting_since));
        if i128::from(for_ms) >= i128::try_from(STALLED_AFTER.as_millis()).unwrap_or(i128::MAX) {
            Self::NoProgress { for_ms }
        } else {
            Self::Progressing
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NeverSeen => "never_seen",
            Self::Idle => "idle",
            Self::Progressing => "progressing",
            Self::NoProgress { .. } => "no_progress",
        }
    }

    pub(crate) fn summary(self, deferred: i64) -> String {
        match self {
            Self::NeverSeen => format!("has never confirmed a message, {deferred} deferred"),
            Self::Idle => "nothing waits for it".to_owned(),
            Self::Progressing => format!("catching up, {deferred} deferred"),
            Self::NoProgress { for_ms } => {
                let time = UnixMillis::from_ms(for_ms).since(UnixMillis::EPOCH);
                format!("no progress for {}, {deferred} deferred", in_words(time))
            }
        }
    }
}

/// How many messages of the queue wait for the consumer at least, or -1 if that is not known: no ready
/// message says nothing about those that the consumer holds.
pub(crate) fn depth(watched: &Watched) -> i64 {
    match (watched.ready, watched.held) {
        (ready, Some(held)) => held.max(ready.unwrap_or(0)),
        (Some(ready), None) if ready > 0 => ready,
        _ => -1,
    }
}

/// Logs one line when a consumer makes no progress with a queue, and one when it does again, whatever
/// the number of messages and of replicas; until `shutdown`.
pub(crate) async fn watch(ledger: Ledger, shutdown: CancellationToken) {
    let mut retry = Retry::new("look whether consumers make progress");
    loop {
        if shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
        match look(&ledger).await {
            Ok(()) => retry.worked(),
            Err(error) => {
                if retry.wait(&error, &shutdown).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn look(ledger: &Ledger) -> Result<(), sqlx::Error> {
    let all = ledger.consumers().await?;
    for of_queue in all.chunk_by(|a, b| (&a.consumer, &a.queue) == (&b.consumer, &b.queue)) {
        let Some(first) = of_queue.first().filter(|watched| !watched.queue.is_empty()) else {
            continue;
        };
        let (consumer, queue) = (&first.consumer, &first.queue);
        let deferred: i64 = of_queue.iter().map(|watched| watched.deferred).sum();
        let stalled =
            of_queue.iter().map(Doing::of).find(|doing| matches!(doing, Doing::NoProgress { .. }));
        let said = of_queue.iter().any(|watched| watched.stalled);
        match stalled {
            Some(doing) if !said && ledger.note_stalled(consumer, queue, true).await? => {
                warn!(
                    consumer,
                    queue,
                    deferred,
                    depth = depth(first),
                    "{consumer}: {}; nothing is sent again meanwhile; is it running?",
                    doing.summary(deferred)
                );
            }
            None if said && ledger.note_stalled(consumer, queue, false).await? => {
                info!(consumer, queue, deferred, "{consumer} makes progress again");
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(progressed_at_ms: Option<i64>, waiting_since_ms: Option<i64>) -> Watched {
        Watched {
            consumer: "logistics".to_owned(),
            queue: "logistics.orders".to_owned(),
            upstream: "orders".to_owned(),
            confirmed_up_to_ms: progressed_at_ms,
            progressed_at_ms,
            ready: None,
            held: None,
            stalled: false,
            deferred: 7,
            waiting_since_ms,
            now_ms: 1_000_000,
        }
    }

    #[test]
    fn only_a_consumer_that_messages_wait_for_can_make_no_progress() {
        for (progressed_at, waiting_since, state) in [
            (None, Some(1), "never_seen"),
            (Some(1), None, "idle"),
            (Some(1), Some(1), "no_progress"),
            (Some(985_000), Some(1), "no_progress"),
            (Some(985_001), Some(1), "progressing"),
            (Some(1), Some(985_001), "progressing"),
        ] {
            let doing = Doing::of(&watched(progressed_at, waiting_since));
            assert_eq!(doing.as_str(), state, "{progressed_at:?}, {waiting_since:?}");
        }
        let doing = Doing::of(&watched(Some(760_000), Some(1)));
        assert_eq!(doing.summary(12_345), "no progress for 4m, 12345 deferred");
    }

    #[test]
    fn a_depth_is_told_only_if_it_is_known() {
        for (ready, held, expected) in [
            (None, None, -1),
            (Some(0), None, -1),
            (Some(5), None, 5),
            (Some(0), Some(0), 0),
            (Some(0), Some(9), 9),
            (Some(7), Some(2), 7),
        ] {
            let watched = Watched { ready, held, ..watched(None, None) };
            assert_eq!(depth(&watched), expected, "{ready:?}, {held:?}");
        }
    }
}

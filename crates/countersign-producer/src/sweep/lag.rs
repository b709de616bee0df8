//! How far the sweep is, for the log and for the callback service.

use std::time::Duration;

use countersign_protocol::{MessageId, UnixMillis};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::sql::sweep::BegunWalk;

/// How far the sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How far the head is behind the newest id to ask about.
    pub(crate) behind: Duration,
    /// The time of the last id that the walk has looked at, and when it began. `None` if no walk is
    /// under way.
    pub(crate) walk: Option<(UnixMillis, UnixMillis)>,
}

impl Progress {
    pub(crate) fn of(
        reached: Option<MessageId>,
        newest: UnixMillis,
        walk: Option<BegunWalk>,
    ) -> Self {
        let behind = reached.map_or(Duration::ZERO, |reached| newest.since(reached.time()));
        let walk = walk.map(|BegunWalk { position, begun_at_us }| {
            let at = position.map_or(UnixMillis::EPOCH, MessageId::time);
            (at, UnixMillis::from_ms(begun_at_us / 1_000))
        });
        Self { behind, walk }
    }
}

/// A head that is so far behind is told: longer than a restart of the callback service takes.
const ALARM: Duration = Duration::from_secs(10 * 60);

/// How often the callback service is told while the head catches up.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What was said of it.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    raised: bool,
    told_at: Option<Instant>,
}

impl Lag {
    /// Logs one line when the head is far behind, and one when it is not any more.
    pub(crate) fn look(&mut self, progress: &Progress) {
        let behind = progress.behind;
        if behind > ALARM && !self.raised {
            warn!(
                behind_s = behind.as_secs(),
                "the sweep is behind: what the broker loses meanwhile is found that much later"
            );
            self.raised = true;
        } else if behind.is_zero() && self.raised {
            info!("the sweep has caught up");
            self.raised = false;
        }
    }

    /// Whether the callback service is to be told now; it counts as told then.
    pub(crate) fn is_to_be_told(&mut self, now: Instant, at_the_end: bool) -> bool {
        let is_due = self.told_at.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY);
        if is_due || at_the_end {
            self.told_at = Some(now);
        }
        is_due || at_the_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_is_raised_once_and_ends_when_the_head_has_caught_up() {
        let mut lag = Lag::default();
        let raised = [0, 600, 601, 900, 30, 0, 601].map(|behind| {
            lag.look(&Progress { behind: Duration::from_secs(behind), walk: None });
            lag.raised
        });
        assert_eq!(raised, [false, false, true, true, true, false, true]);
    }

    #[test]
    fn a_head_that_catches_up_is_told_every_ten_seconds_and_at_the_end_of_a_round() {
        let (mut lag, begin) = (Lag::default(), Instant::now());
        let told = [(0, false), (1, false), (9, true), (12, false), (19, false)].map(
            |(second, at_the_end)| {
                lag.is_to_be_told(begin + Duration::from_secs(second), at_the_end)
            },
        );
        assert_eq!(told, [true, false, true, false, true]);
    }
}

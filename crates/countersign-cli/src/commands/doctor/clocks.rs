//! Clocks: those of this machine, the broker and the databases should tell the same time.

use super::finding::{Finding, error, warning};
use crate::terminal::clock::span;

/// A clock, as this machine read it.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    pub(crate) whose: String,
    /// How far the clock is ahead of this machine's, in milliseconds.
    pub(crate) ahead_ms: i64,
    /// How wrong `ahead_ms` can be, in milliseconds: half the time that the reading took, plus half the
    /// unit in which the clock is told.
    pub(crate) unsure_ms: i64,
}

/// No decision depends on less: confirms and checks may travel for as long.
const TOLERATED_MS: i64 = 5_000;
/// From here on a message's age, read off its id, is plainly wrong, and with it retention and delays.
const TOO_MUCH_MS: i64 = 600_000;

/// Each clock that differs from the median: with two clocks that agree, the third one is named.
pub(crate) fn check(clocks: &[Clock]) -> Vec<Finding> {
    let this = Clock { whose: "this machine's clock".to_owned(), ahead_ms: 0, unsure_ms: 0 };
    let mut all: Vec<&Clock> = clocks.iter().chain([&this]).collect();
    all.sort_by_key(|clock| clock.ahead_ms);
    let middle = all[all.len() / 2];
    all.iter().filter_map(|clock| compare(clock, middle)).collect()
}

fn compare(clock: &Clock, middle: &Clock) -> Option<Finding> {
    let ahead = clock.ahead_ms.saturating_sub(middle.ahead_ms);
    let surely =
        ahead.saturating_abs().saturating_sub(clock.unsure_ms).saturating_sub(middle.unsure_ms);
    let severity = match surely {
        TOO_MUCH_MS.. => error,
        TOLERATED_MS.. => warning,
        _ => return None,
    };
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let found = format!("{} {way} {}", span(ahead.unsigned_abs()), middle.whose);
    Some(severity(
        &clock.whose,
        found,
        "synchronise it (chrony or systemd-timesyncd): message ids, retention and delays are read off clocks",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity::{Error, Warning};
    use super::*;

    fn clock(whose: &str, ahead_ms: i64, unsure_ms: i64) -> Clock {
        Clock { whose: whose.to_owned(), ahead_ms, unsure_ms }
    }

    #[test]
    fn the_clock_that_differs_from_the_others_is_named() {
        let found = |clocks: &[Clock]| -> Vec<_> {
            check(clocks).into_iter().map(|f| (f.subject, f.severity)).collect()
        };
        let named = |whose: &str, severity| vec![(whose.to_owned(), severity)];
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[clock("a", 4_000, 0), clock("b", -4_000, 0)]), []);
        assert_eq!(found(&[clock("a", 6_000, 2_000), clock("b", 0, 0)]), [], "not sure");
        assert_eq!(found(&[clock("a", 7_000, 100), clock("b", 1, 0)]), named("a", Warning));
        assert_eq!(found(&[clock("a", -700_000, 0), clock("b", 1, 0)]), named("a", Error));
        assert_eq!(
            found(&[clock("a", 700_000, 0), clock("b", 700_001, 0)]),
            named("this machine's clock", Error)
        );
    }
}

//! Which partitions a table should have: a pure function of those it has, the time and the
//! retention.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_protocol::UnixMillis;
use time::macros::format_description;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

/// How far ahead partitions are made. Any process that is alive once within this time makes the
/// next ones, and ids of clocks that run ahead find a partition.
pub(crate) const AHEAD: Duration = Duration::from_secs(48 * 60 * 60);

/// A day in UTC: the width of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(i64);

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

impl Day {
    pub(crate) fn of(moment: UnixMillis) -> Self {
        Self(moment.ms().div_euclid(DAY_MS))
    }

    fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub(crate) fn start(self) -> UnixMillis {
        UnixMillis::from_ms(self.0 * DAY_MS)
    }

    pub(crate) fn end(self) -> UnixMillis {
        self.next().start()
    }

    /// The day's date, as partition names end with it: `20261121`.
    pub(crate) fn digits(self) -> String {
        let date = OffsetDateTime::from_unix_timestamp(self.0 * DAY_MS / 1_000)
            .map_or(Date::MIN, OffsetDateTime::date);
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        format!("{year:04}{month:02}{day:02}")
    }

    pub(crate) fn from_digits(digits: &str) -> Option<Self> {
        let format = format_description!("[year][month][day]");
        let date = Date::parse(digits, format).ok()?;
        Some(Self(date.midnight().assume_utc().unix_timestamp() * 1_000 / DAY_MS))
    }
}

/// The smallest UUIDv7 of a moment: every id made earlier is smaller.
pub(crate) fn bound(moment: UnixMillis) -> Uuid {
    let ms = moment.max(UnixMillis::EPOCH).min(UnixMillis::MAX_IN_ID).ms();
    Uuid::from_u128(u128::try_from(ms).unwrap_or(0) << 80)
}

/// The partitions to create and to drop.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<Day>,
    pub(crate) drop: Vec<Day>,
}

/// Plans partitions for the ids of the coming 48 hours, and drops those whose ids are all past
/// retention.
///
/// A table without partitions gets them back to the retention, because messages may be under way
/// that are older than the table. Later no partition is made in the past: an empty partition where
/// one was dropped would claim that nothing ever happened then.
pub(crate) fn plan(existing: &BTreeSet<Day>, now: UnixMillis, retention: Duration) -> Plan {
    let oldest_kept = Day::of(now.before(retention));
    let newest_needed = Day::of(now.after(AHEAD));
    let first_missing = existing.last().map_or(oldest_kept, |newest| newest.next());
    let create = std::iter::successors(Some(first_missing), |day| Some(day.next()))
        .take_while(|day| *day <= newest_needed)
        .filter(|day| *day >= oldest_kept)
        .collect();
    let drop = existing.iter().copied().take_while(|day| *day < oldest_kept).collect();
    Plan { create, drop }
}

/// The unbroken run of days that ends with the newest.
pub(crate) fn newest_run(days: &BTreeSet<Day>) -> Option<(Day, Day)> {
    let newest = *days.last()?;
    let mut oldest = newest;
    for day in days.iter().rev().skip(1) {
        if day.next() != oldest {
            break;
        }
        oldest = *day;
    }
    Some((oldest, newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = DAY_MS / 2;

    fn noon_of(day: i64) -> UnixMillis {
        UnixMillis::from_ms(day * DAY_MS + NOON)
    }

    fn days(days: impl IntoIterator<Item = i64>) -> BTreeSet<Day> {
        days.into_iter().map(Day).collect()
    }

    fn retention(days: u64) -> Duration {
        Duration::from_secs(days * 24 * 60 * 60)
    }

    fn numbers(days: &[Day]) -> Vec<i64> {
        days.iter().map(|day| day.0).collect()
    }

    #[test]
    fn partitions_are_made_ahead_and_dropped_past_retention() {
        for (what, existing, now, create, drop) in [
            (
                "at first: back to the retention",
                days([]),
                100,
                vec![97, 98, 99, 100, 101, 102],
                vec![],
            ),
            ("nothing to do", days(97..=102), 100, vec![], vec![]),
            ("a day later", days(97..=102), 101, vec![103], vec![97]),
            (
                "after a long sleep: no hole",
                days(97..=102),
                110,
                vec![107, 108, 109, 110, 111, 112],
                vec![97, 98, 99, 100, 101, 102],
            ),
            ("a hole in the past stays", days([97, 99, 100, 101, 102]), 100, vec![], vec![]),
            ("retention was raised: the past is not invented", days(99..=102), 100, vec![], vec![]),
        ] {
            let plan = plan(&existing, noon_of(now), retention(3));
            assert_eq!((numbers(&plan.create), numbers(&plan.drop)), (create, drop), "{what}");
        }
    }

    #[test]
    fn only_the_unbroken_run_up_to_the_newest_counts() {
        assert_eq!(newest_run(&days([])), None);
        assert_eq!(newest_run(&days([5])), Some((Day(5), Day(5))));
        assert_eq!(newest_run(&days([1, 2, 4, 5, 6])), Some((Day(4), Day(6))));
    }

    #[test]
    fn days_are_named_by_their_date_and_bounded_by_their_first_id() {
        let day = Day::of(UnixMillis::from_ms(1_795_231_234_567));
        assert_eq!(day.digits(), "20261121");
        assert_eq!(Day::from_digits("20261121"), Some(day));
        assert_eq!(Day::from_digits("20261321"), None);
        let first = countersign_protocol::MessageId::from_parts(day.start(), [0; 10]);
        let last = countersign_protocol::MessageId::from_parts(
            UnixMillis::from_ms(day.end().ms() - 1),
            [0xFF; 10],
        );
        assert!(bound(day.start()) <= first.uuid() && last.uuid() < bound(day.end()));
    }
}

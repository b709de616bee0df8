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
/// retention, but no more than `may_drop` of them, the oldest first.
///
/// A table without partitions gets them back to the retention, because messages may be under way
/// that are older than the table. Later no partition is made in the past: an empty partition where
/// one was dropped would claim that nothing ever happened then.
///
/// Partitions further ahead than 48 hours come from a clock that was wrong. They prove nothing: the days
/// around `now` are made all the same, also where such partitions leave a hole when time comes to them.
pub(crate) fn plan(
    existing: &BTreeSet<Day>,
    now: UnixMillis,
    retention: Duration,
    may_drop: usize,
) -> Plan {
    let oldest_kept = Day::of(now.before(retention));
    let newest_needed = Day::of(now.after(AHEAD));
    let newest = existing.range(..=newest_needed).next_back();
    let first_missing = newest.map_or(oldest_kept, |newest| newest.next());
    let missing = std::iter::successors(Some(first_missing), |day| Some(day.next()))
        .take_while(|day| *day <= newest_needed);
    let around = Plan::around(existing, [now, now]).create;
    let create: BTreeSet<Day> = missing.chain(around).filter(|day| *day >= oldest_kept).collect();
    let create = create.into_iter().collect();
    let past = existing.iter().copied().take_while(|day| *day < oldest_kept);
    Plan { create, drop: past.take(may_drop).collect() }
}

impl Plan {
    /// Makes what is missing from the day before each of these moments to 48 hours after it, and drops nothing.
    ///
    /// While the database's clock and the machine's disagree, partitions are made around both: whichever is right,
    /// the ids of its time have a place. A table without any partition waits for the clocks, because only with the
    /// first ones come those back to the retention.
    pub(crate) fn around(existing: &BTreeSet<Day>, moments: [UnixMillis; 2]) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let mut create = BTreeSet::new();
        for now in moments {
            let newest_needed = Day::of(now.after(AHEAD));
            let days =
                std::iter::successors(Some(Day::of(now.before(DAY))), |day| Some(day.next()));
            create.extend(days.take_while(|day| *day <= newest_needed));
        }
        // Older ones than there are were dropped: empty, they would claim that nothing ever happened then.
        create.retain(|day| {
            existing.first().is_some_and(|oldest| day > oldest) && !existing.contains(day)
        });
        Self { create: create.into_iter().collect(), drop: Vec::new() }
    }
}

/// How many partitions a process may have dropped, so long after its start: as many as days have
/// passed on the monotonic clock, and two more. A clock of the database that is wrong once, by days
/// or by years, costs no more than that.
pub(crate) fn may_have_dropped(since_start: Duration) -> usize {
    const MORE: u64 = 2;
    const DAY: u64 = 24 * 60 * 60;
    usize::try_from(since_start.as_secs() / DAY + MORE).unwrap_or(usize::MAX)
}

/// The unbroken run of days that ends with the newest one within the coming 48 hours.
pub(crate) fn current_run(days: &BTreeSet<Day>, now: UnixMillis) -> Option<(Day, Day)> {
    let mut days = days.range(..=Day::of(now.after(AHEAD))).rev();
    let newest = *days.next()?;
    let mut oldest = newest;
    for day in days {
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
            let plan = plan(&existing, noon_of(now), retention(3), usize::MAX);
            assert_eq!((numbers(&plan.create), numbers(&plan.drop)), (create, drop), "{what}");
        }
    }

    /// What a plan leaves.
    fn after(existing: &BTreeSet<Day>, now: i64, may_drop: usize) -> BTreeSet<Day> {
        let plan = plan(existing, noon_of(now), retention(30), may_drop);
        let kept = existing.iter().filter(|day| !plan.drop.contains(day));
        kept.chain(&plan.create).copied().collect()
    }

    #[test]
    fn a_clock_that_was_wrong_once_costs_two_partitions_and_none_around_now() {
        let right = days(70..=102);
        for wrong in [100 + 31, 100 + 40, 100 + 365, 100 + 20 * 365] {
            let jumped = after(&right, wrong, may_have_dropped(Duration::ZERO));
            let back = after(&jumped, 100, 0);
            assert!((72..=102).all(|day| back.contains(&Day(day))), "{wrong}: {back:?}");
            assert_eq!(current_run(&back, noon_of(100)), Some((Day(72), Day(102))), "{wrong}");
            let next_day = after(&back, 101, 0);
            assert_eq!(current_run(&next_day, noon_of(101)), Some((Day(72), Day(103))), "{wrong}");
        }
        for wrong in [100 - 31, 0] {
            let jumped = after(&right, wrong, may_have_dropped(Duration::ZERO));
            assert!(right.is_subset(&jumped), "{wrong}: {jumped:?}");
            assert_eq!(current_run(&jumped, noon_of(100)), Some((Day(70), Day(102))), "{wrong}");
        }
    }

    #[test]
    fn partitions_that_a_wrong_clock_left_ahead_leave_no_hole_when_time_comes_to_them() {
        let left: BTreeSet<Day> = days(70..=102).union(&days(104..=107)).copied().collect();
        let later = after(&left, 103, 0);
        assert_eq!(current_run(&later, noon_of(103)), Some((Day(70), Day(105))));
    }

    #[test]
    fn while_clocks_disagree_the_days_around_both_are_made_and_none_is_dropped() {
        let around = |existing: &[i64]| {
            let existing = days(existing.iter().copied());
            let plan = Plan::around(&existing, [noon_of(100), noon_of(200)]);
            assert_eq!(plan.drop, []);
            numbers(&plan.create)
        };
        assert_eq!(around(&[10]), [99, 100, 101, 102, 199, 200, 201, 202]);
        assert_eq!(around(&[98, 99, 101, 199, 200, 201]), [100, 102, 202]);
        assert_eq!(around(&[]), [0; 0]);
        assert_eq!(around(&[101]), [102, 199, 200, 201, 202], "what was dropped stays dropped");
    }

    #[test]
    fn a_process_drops_a_partition_a_day_and_two_more() {
        let hours = |hours: u64| may_have_dropped(Duration::from_secs(hours * 60 * 60));
        assert_eq!([0, 23, 24, 240].map(hours), [2, 2, 3, 12]);
    }

    #[test]
    fn only_the_unbroken_run_up_to_the_newest_of_the_coming_days_counts() {
        let run = |existing: &[i64]| current_run(&days(existing.iter().copied()), noon_of(5));
        assert_eq!(run(&[]), None);
        assert_eq!(run(&[5]), Some((Day(5), Day(5))));
        assert_eq!(run(&[1, 2, 4, 5, 6, 99]), Some((Day(4), Day(6))));
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

//! Databases: all migrations applied, partitions for the days to come.

use std::collections::BTreeSet;

use super::finding::{Finding, error, warning};
use crate::terminal::clock::span;

/// One database, as it was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Database {
    /// The address, without the password.
    pub(crate) name: String,
    /// The database's clock, in milliseconds since 1970.
    pub(crate) now_ms: i64,
    /// The database is a standby, or takes no writes for another reason.
    pub(crate) read_only: bool,
    /// The parts of Countersign that have tables in it.
    pub(crate) parts: Vec<Part>,
}

/// The tables of one part of Countersign.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub(crate) of: Owner,
    /// Version of each applied migration, and whether it succeeded.
    pub(crate) applied: Vec<(i64, bool)>,
    /// Versions that this program knows.
    pub(crate) known: Vec<i64>,
    pub(crate) tables: Vec<Table>,
}

/// The part of Countersign that made the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The callback service.
    #[default]
    Callback,
    /// An upstream's SDK.
    Upstream,
    /// A consumer's SDK.
    Consumer,
}

/// A table with a partition for each day.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// The first millisecond of each day that has a partition.
    pub(crate) days_ms: BTreeSet<i64>,
    /// Whether there is a DEFAULT partition.
    pub(crate) has_default: bool,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// The services make partitions 48 hours ahead, in time for a weekend. Below half of that, making them
/// has failed for a day.
const WARN_AHEAD_MS: i64 = 24 * 60 * 60 * 1_000;

impl Owner {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Callback => "the callback service",
            Self::Upstream => "the upstream",
            Self::Consumer => "the consumer",
        }
    }
}

impl Table {
    /// The oldest moment whose ids have a partition, without a gap from there to the newest. `None`: no
    /// partition at all.
    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        let mut oldest = *self.days_ms.last()?;
        while self.days_ms.contains(&(oldest - DAY_MS)) {
            oldest -= DAY_MS;
        }
        Some(oldest)
    }
}

/// The faults of one database.
pub(crate) fn check(database: &Database) -> Vec<Finding> {
    let subject = format!("database {}", database.name);
    let mut findings = Vec::new();
    if database.parts.is_empty() {
        findings.push(error(
            &subject,
            "none of our tables are in it",
            "check the address: is it the database of a service that has ever started?",
        ));
    }
    if database.read_only {
        findings.push(error(
            &subject,
            "it is a standby and takes no writes",
            "point its service at the primary (COUNTERSIGN_DATABASE_URL)",
        ));
    }
    for part in &database.parts {
        findings.extend(migrations(&subject, part));
        for table in &part.tables {
            findings.extend(partitions(&database.name, part.of, table, database.now_ms));
        }
    }
    findings
}

fn migrations(subject: &str, part: &Part) -> Vec<Finding> {
    let (of, Part { applied, known, .. }) = (part.of.as_str(), part);
    let mut findings = Vec::new();
    let numbers =
        |numbers: Vec<i64>| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let failed: Vec<i64> = applied.iter().filter(|(_, good)| !good).map(|(n, _)| *n).collect();
    let missing: Vec<i64> =
        known.iter().filter(|n| applied.iter().all(|(a, _)| a != *n)).copied().collect();
    let unknown: Vec<i64> =
        applied.iter().map(|(n, _)| *n).filter(|n| !known.contains(n)).collect();
    if !failed.is_empty() {
        findings.push(error(
            subject,
            format!("migration {} of {of} failed halfway", numbers(failed)),
            format!("read the log of {of}; mend what it says and start it again"),
        ));
    }
    if !missing.is_empty() {
        findings.push(warning(
            subject,
            format!("migration {} of {of} is not applied", numbers(missing)),
            format!("{of} is older than this program: upgrade it; it migrates when it starts"),
        ));
    }
    if !unknown.is_empty() {
        findings.push(warning(
            subject,
            format!("migration {} of {of} is not known here", numbers(unknown)),
            "this program is older: use the one of the services' release",
        ));
    }
    findings
}

fn partitions(database: &str, of: Owner, table: &Table, now_ms: i64) -> Vec<Finding> {
    let subject = format!("table {} in {database}", table.name);
    let fix = format!(
        "{} makes them 48 hours ahead: is it running, and may its user create tables? Its log says \"partitions could not be made\"",
        of.as_str()
    );
    let mut findings = Vec::new();
    if table.has_default {
        findings.push(error(
            &subject,
            "it has a DEFAULT partition, which stands in the way of making others",
            "move its rows to partitions of their own and drop it",
        ));
    }
    let until_ms = table.days_ms.last().map_or(0, |day| day + DAY_MS);
    let ahead_ms = until_ms - now_ms;
    let today = now_ms.div_euclid(DAY_MS) * DAY_MS;
    if ahead_ms <= 0 || !table.days_ms.contains(&today) {
        findings.push(error(
            &subject,
            "it has no partition for messages of now: they are refused",
            fix,
        ));
    } else if ahead_ms < WARN_AHEAD_MS {
        let left = span(u64::try_from(ahead_ms).unwrap_or(0));
        findings.push(warning(&subject, format!("its partitions end in {left}"), fix));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity::{self, Error, Warning};
    use super::*;

    const TODAY: i64 = 20_000 * DAY_MS;
    const NOON: i64 = TODAY + DAY_MS / 2;

    fn days(days: impl IntoIterator<Item = i64>) -> BTreeSet<i64> {
        days.into_iter().map(|day| TODAY + day * DAY_MS).collect()
    }

    fn table(days_ms: BTreeSet<i64>) -> Table {
        Table { name: "confirmation".to_owned(), days_ms, has_default: false }
    }

    fn good() -> Database {
        let part = Part {
            of: Owner::Callback,
            applied: vec![(1, true), (2, true)],
            known: vec![1, 2],
            tables: vec![table(days(-30..=2))],
        };
        Database {
            name: "postgres://db/callback".to_owned(),
            now_ms: NOON,
            read_only: false,
            parts: vec![part],
        }
    }

    fn found(change: impl FnOnce(&mut Database)) -> Vec<(Severity, String)> {
        let mut database = good();
        change(&mut database);
        check(&database).into_iter().map(|f| (f.severity, f.finding)).collect()
    }

    #[test]
    fn a_database_as_it_should_be_has_no_findings() {
        assert_eq!(found(|_| {}), []);
        assert_eq!(
            found(|d| d.parts[0].tables[0].days_ms = days(0..=1)),
            [],
            "a day and a half ahead"
        );
    }

    #[test]
    fn each_thing_that_is_not_is_found() {
        type Change = fn(&mut Database);
        let cases: [(Change, Severity, &str); 9] = [
            (|d| d.parts.clear(), Error, "none of our tables"),
            (|d| d.read_only = true, Error, "standby"),
            (|d| d.parts[0].applied[1].1 = false, Error, "migration 2"),
            (|d| d.parts[0].applied.truncate(1), Warning, "not applied"),
            (|d| d.parts[0].applied.push((9, true)), Warning, "migration 9"),
            (|d| d.parts[0].tables[0].has_default = true, Error, "DEFAULT"),
            (|d| d.parts[0].tables[0].days_ms = days(-30..=-1), Error, "refused"),
            (|d| d.parts[0].tables[0].days_ms = days([-1, 1, 2]), Error, "refused"),
            (|d| d.parts[0].tables[0].days_ms = days(-30..=0), Warning, "end in 12h 00m"),
        ];
        for (change, severity, part) in cases {
            let found = found(change);
            let [(seen, what)] = &found[..] else { panic!("{part}: {found:?}") };
            assert_eq!(*seen, severity, "{what}");
            assert!(what.contains(part), "{what}: {part}");
        }
    }

    #[test]
    fn a_gap_ends_what_is_known() {
        assert_eq!(table(days([-9, -8, -2, -1, 0, 1])).oldest_ms(), Some(TODAY - 2 * DAY_MS));
        assert_eq!(table(days([])).oldest_ms(), None);
    }
}

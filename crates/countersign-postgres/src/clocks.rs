//! The database's clock beside this machine's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_protocol::UnixMillis;
use thiserror::Error;

/// The database's clock and this machine's say times that are more than an hour apart: one of them is wrong, and
/// nobody can tell which. By a wrong clock what is right would be taken for too old or of the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the database's clock is {} {} this machine's: set the wrong one right; until they agree within an hour, messages are held, and none is lost",
    in_words(.database.since(*.machine).max(.machine.since(*.database))),
    if .database > .machine { "ahead of" } else { "behind" }
)]
pub struct ClocksDisagree {
    /// What the database's clock said.
    pub database: UnixMillis,
    /// What this machine's clock said at the same time.
    pub machine: UnixMillis,
}

/// Clocks that NTP keeps differ by less than a second; a time zone taken for UTC makes an hour or more.
const MOST_APART: Duration = Duration::from_secs(60 * 60);

/// Compares a reading of the database's clock with this machine's clock.
///
/// # Errors
/// When they are more than an hour apart.
pub fn agree(database: UnixMillis) -> Result<(), ClocksDisagree> {
    compare(database, this_machine())
}

fn compare(database: UnixMillis, machine: UnixMillis) -> Result<(), ClocksDisagree> {
    let apart = database.since(machine).max(machine.since(database));
    if apart > MOST_APART { Err(ClocksDisagree { database, machine }) } else { Ok(()) }
}

/// What this machine's clock says, to be compared with the database's.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "it is compared with the database's clock")]
pub fn this_machine() -> UnixMillis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis::EPOCH.after(since_1970)
}

/// In the two largest units: `1day 3h`.
fn in_words(time: Duration) -> String {
    let words = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    words.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_an_hour_and_no_more_either_way() {
        let moment = |s| UnixMillis::from_ms(1_795_231_234_567).after(Duration::from_secs(s));
        for (database, machine, agreed) in
            [(0, 0, true), (0, 3_600, true), (3_600, 0, true), (0, 3_601, false), (3_601, 0, false)]
        {
            let compared = compare(moment(database), moment(machine));
            assert_eq!(compared.is_ok(), agreed, "{database} {machine}");
        }
    }

    #[test]
    fn a_disagreement_says_which_clock_is_behind_and_by_how_much() {
        let now = UnixMillis::from_ms(1_795_231_234_567);
        let text = |database, machine| compare(database, machine).unwrap_err().to_string();
        let years = text(UnixMillis::EPOCH, now);
        assert!(years.starts_with("the database's clock is 56years 10months behind"), "{years}");
        let hours = text(now.after(Duration::from_secs(3 * 60 * 60)), now);
        assert!(hours.starts_with("the database's clock is 3h ahead of this"), "{hours}");
    }
}

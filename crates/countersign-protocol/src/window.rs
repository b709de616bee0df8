//! The window of ids that a party can take.

use std::time::Duration;

use thiserror::Error;

use crate::id::MessageId;
use crate::time::UnixMillis;

/// How far ahead of a reader's clock an id may be. A day is far more than clocks of one system differ by, and
/// partitions are made two days ahead.
pub const MAX_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// The ids that a party can take: those made from `oldest` to `newest`, both included.
///
/// A table that is partitioned by id has a place for these ids alone, and what it knew of older ones is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Ids made before this moment are too old.
    pub oldest: UnixMillis,
    /// Ids made after this moment are too far ahead.
    pub newest: UnixMillis,
}

/// On which side of a [`Window`] an id lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OutsideWindow {
    /// The id was made before the window's oldest moment.
    #[error("too old")]
    TooOld,
    /// The id was made after the window's newest moment: a clock is wrong.
    #[error("of the future")]
    Ahead,
}

impl Window {
    /// The window of a party that takes every id.
    pub const ALL: Self = Self { oldest: UnixMillis::EPOCH, newest: UnixMillis::MAX_IN_ID };

    /// The window of a reader whose clock says `now` and that keeps records for `retention`.
    #[must_use]
    pub const fn at(now: UnixMillis, retention: Duration) -> Self {
        Self { oldest: now.before(retention), newest: now.after(MAX_AHEAD) }
    }

    /// Takes an id of this window.
    ///
    /// # Errors
    /// When the id lies outside.
    pub fn admit(&self, id: MessageId) -> Result<(), OutsideWindow> {
        if id.time() < self.oldest {
            Err(OutsideWindow::TooOld)
        } else if id.time() > self.newest {
            Err(OutsideWindow::Ahead)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_window_are_inside() {
        let moment = UnixMillis::from_ms;
        let window = Window { oldest: moment(1_000), newest: moment(2_000) };
        for (ms, expected) in [
            (0, Err(OutsideWindow::TooOld)),
            (999, Err(OutsideWindow::TooOld)),
            (1_000, Ok(())),
            (2_000, Ok(())),
            (2_001, Err(OutsideWindow::Ahead)),
        ] {
            let id = MessageId::from_parts(moment(ms), [7; 10]);
            assert_eq!(window.admit(id), expected, "{ms}");
            assert_eq!(Window::ALL.admit(id), Ok(()), "{ms}");
        }
    }

    #[test]
    fn a_retention_without_end_keeps_every_id() {
        let window = Window::at(UnixMillis::from_ms(1_000), Duration::MAX);
        let first = MessageId::from_parts(UnixMillis::EPOCH, [7; 10]);
        assert_eq!(window.admit(first), Ok(()));
    }
}

//! The wall clock: read here and nowhere else in this crate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_protocol::UnixMillis;

/// This machine's time, for what confirms say about it. Nothing is decided by it: whether an id is
/// too old, the database's clock says.
#[expect(clippy::disallowed_methods, reason = "the one place where this crate reads the clock")]
pub(crate) fn now() -> UnixMillis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis::EPOCH.after(since_1970)
}

/// Whole milliseconds, for the log.
pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

//! The wall clock, for the times in messages and for the age of ids.

use std::time::{Duration, SystemTime};

use countersign_protocol::UnixMillis;

/// The current time.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where this crate reads the wall clock"
)]
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMillis::EPOCH.after(since)
}

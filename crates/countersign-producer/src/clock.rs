//! The wall clock: for what is written into messages, and for the age of ids.

use std::time::{Duration, SystemTime};

use countersign_protocol::UnixMillis;

/// This moment.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where this crate reads the wall clock"
)]
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMillis::EPOCH.after(since)
}

//! How long tests wait, said once for all crates.

use std::time::Duration;

/// For a step that should happen at once.
///
/// An idle machine takes milliseconds. 30 s is for two cores that also build, start brokers and run
/// other tests.
pub const SOON: Duration = Duration::from_secs(30);

/// For a step with waiting times inside: a server that starts again, or a check delay and a resend
/// delay until a message is sent again.
pub const HEALED: Duration = Duration::from_secs(60);

/// Waits for a future that should be done [`SOON`].
///
/// # Panics
/// When the deadline is over; the message says what was awaited.
///
/// # Cancel safety
/// The same as the future's.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(SOON, what, future).await
}

/// Waits for a future, at most `deadline` long.
///
/// # Panics
/// When the deadline is over; the message says what was awaited.
///
/// # Cancel safety
/// The same as the future's.
pub async fn within<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(deadline, future).await;
    done.unwrap_or_else(|_| panic!("waited {deadline:?} for: {what}"))
}

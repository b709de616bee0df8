//! Waiting for a state that the test can only poll.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// The pause between two looks: short beside what tests wait for, long beside the query that one
/// look costs.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The result of one look: the awaited value, or another one.
pub trait Look {
    /// The awaited value.
    type Found;
    /// The awaited value, or what the look saw instead, for the message of a failed wait.
    ///
    /// # Errors
    /// If the awaited value is not there yet.
    fn found(self) -> Result<Self::Found, String>;
}

impl<T> Look for Option<T> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Debug> Look for Result<T, E> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.map_err(|seen| format!("{seen:?}"))
    }
}

impl Look for bool {
    type Found = ();
    fn found(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "false".to_owned())
    }
}

/// Looks again and again until `look` finds the awaited value, at most `deadline` long.
///
/// `look` returns an `Option`, a `bool`, or a `Result` whose error says what the look saw instead.
///
/// ```
/// # use std::time::Duration;
/// # use countersign_testbed::eventually;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # async fn count_shipments() -> u32 { 1 }
/// eventually("the order is shipped", Duration::from_secs(10), async || {
///     let shipments = count_shipments().await;
///     if shipments == 1 { Ok(()) } else { Err(shipments) }
/// })
/// .await;
/// # }
/// ```
///
/// # Panics
/// When the deadline is over; the message says what was awaited and what was seen last.
pub async fn eventually<L: Look>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> L,
) -> L::Found {
    let end = Instant::now() + deadline;
    let mut seen = "nothing: the first look did not return".to_owned();
    loop {
        match tokio::time::timeout_at(end, look()).await.map(Look::found) {
            Ok(Ok(found)) => return found,
            Ok(Err(other)) => seen = other,
            Err(_) => {}
        }
        // A look that never waits is always in time: the clock is asked, too.
        assert!(Instant::now() < end, "waited {deadline:?} for: {what}; last seen: {seen}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// [`eventually`], for a count: waits until it is exactly `expected`.
///
/// ```
/// # use countersign_testbed::{SOON, counts};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # async fn count_shipments() -> i64 { 3 }
/// counts("shipments", SOON, 3, count_shipments).await;
/// # }
/// ```
///
/// # Panics
/// When the deadline is over; the message says how many were seen last.
pub async fn counts<N: Debug + PartialEq>(
    what: &str,
    deadline: Duration,
    expected: N,
    mut count: impl AsyncFnMut() -> N,
) {
    eventually(&format!("{what}: {expected:?}"), deadline, async || {
        let seen = count().await;
        if seen == expected { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "for: it; last seen: 1")]
    async fn a_look_that_never_waits_has_its_deadline_all_the_same() {
        eventually("it", LOOK_EVERY, async || Err::<(), _>(1)).await;
    }

    #[tokio::test]
    #[should_panic(expected = "last seen: nothing")]
    async fn a_look_that_never_returns_has_its_deadline() {
        eventually("it", LOOK_EVERY, async || std::future::pending::<bool>().await).await;
    }
}

//! How an upstream's sweep is done.

use std::time::Duration;

use crate::sweep::callback::CallbackAddress;

/// The settings of a [`Sweeper`](crate::Sweeper).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SweepSettings {
    /// The callback service's address.
    pub callback: CallbackAddress,
    /// The pause between two rounds of the head, in which the walk goes on. Too short: both databases
    /// answer questions that find nothing. Too long: the sweep finds late what the broker lost.
    /// Default: 1 min.
    pub every: Duration,
    /// How long after the last walk began the next one begins with the oldest enlisted id; a walk that
    /// takes longer goes on to its end. The walk finds what the *callback service's database* lost in a
    /// failover. Default: 24 h.
    pub anew: Duration,
    /// How much longer than the check delay and the longest transaction the sweep leaves a message
    /// alone. It has to cover the difference between the clocks of upstream and database, and the
    /// time that the callback service takes to look a due check up. Too short: a message gets a
    /// second check when its first has just come due. Default: 1 min.
    pub slack: Duration,
}

impl SweepSettings {
    /// The defaults, for the callback service at this address.
    #[must_use]
    pub fn new(callback: CallbackAddress) -> Self {
        Self {
            callback,
            every: Duration::from_secs(60),
            anew: Duration::from_secs(24 * 60 * 60),
            slack: Duration::from_secs(60),
        }
    }
}

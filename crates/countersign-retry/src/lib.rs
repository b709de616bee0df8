//! Retrying quietly: pauses that grow, and log lines that do not fill the log.
//!
//! - [`Retry`]: one operation that is tried until it works. It pauses and it logs.
//! - [`Backoff`]: the pauses alone, for a caller with log fields of its own.
//! - [`LogLimit`]: the restraint alone, for trouble that comes back at every try or that many tasks
//!   meet at the same time.
//! - [`Pulse`]: what a party has in hand, and since when. A [`Retry`] can feed it.
//!
//! ```no_run
//! use countersign_retry::{Retry, Stopped};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn look() -> Result<(), std::io::Error> { Ok(()) }
//! async fn look_until_it_works(shutdown: &CancellationToken) -> Result<(), Stopped> {
//!     let mut retry = Retry::new("look for overdue messages");
//!     while let Err(error) = look().await {
//!         retry.wait(&error, shutdown).await?;
//!     }
//!     retry.worked();
//!     Ok(())
//! }
//! ```

mod retry;

mod backoff;

mod log_limit;

mod pulse;

pub use backoff::Backoff;
pub use log_limit::LogLimit;
pub use pulse::{InHand, Pulse};
pub use retry::{Retry, Stopped};

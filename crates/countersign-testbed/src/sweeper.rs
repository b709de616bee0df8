//! Cleans up after values that were dropped: `drop` cannot wait for a server.

use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::Result;

type Job = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

static SWEEPER: LazyLock<Sender<Job>> = LazyLock::new(|| {
    let (jobs, waiting) = channel::<Job>();
    thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        for job in waiting {
            // A database or vhost that cannot be deleted goes with the servers; they belong to this
            // run.
            if let Err(error) = runtime.block_on(job) {
                tracing::debug!(error = format!("{error:#}"), "left behind");
            }
        }
    });
    jobs
});

/// Runs the task some time, if the process lives that long.
pub(crate) fn later(job: impl Future<Output = Result<()>> + Send + 'static) {
    let _ = SWEEPER.send(Box::pin(job));
}

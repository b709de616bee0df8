//! The parts of the service that work side by side, each in a task of its own.

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The workers of one service. All of them have to work: if one ends by itself, the service has failed.
#[derive(Debug)]
pub(crate) struct Workers {
    tasks: JoinSet<&'static str>,
    shutdown: CancellationToken,
}

impl Workers {
    /// No worker yet. `shutdown` is what will tell them to stop.
    #[must_use]
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), shutdown }
    }

    /// Starts a worker. `name` says what it does, for the message that it has ended by itself.
    pub(crate) fn spawn<F>(&mut self, name: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = run(self.shutdown.clone());
        self.tasks.spawn(async move {
            work.await;
            name
        });
    }

    /// Returns when a worker has ended although nothing told it to stop: its name, or why it panicked.
    pub(crate) async fn failed(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(_)) if self.shutdown.is_cancelled() => {}
                Some(Ok(name)) => return name.to_owned(),
                Some(Err(error)) => return error.to_string(),
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until every worker has ended.
    ///
    /// # Errors
    /// When one of them panicked.
    pub(crate) async fn finish(mut self) -> Result<(), JoinError> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            result = ended.map(drop).and(result);
        }
        result
    }
}

//! One life of a connection: from the moment it is built until anything about it fails.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, within};

/// How long the broker may take to open a channel. It takes milliseconds; a node under a load of
/// reconnects takes seconds.
const CHANNEL_TIMEOUT: Duration = Duration::from_secs(10);

/// One life of a connection. A task that meets an error on the connection fails the epoch;
/// publishers and consumers then begin anew in the next one.
#[derive(Debug)]
pub(crate) struct Epoch {
    link: lapin::Connection,
    ended: CancellationToken,
    why: OnceLock<String>,
}

/// The current epoch; `None` while the connection is away.
pub(crate) type Epochs = watch::Receiver<Option<Arc<Epoch>>>;

impl Epoch {
    pub(crate) fn new(link: lapin::Connection) -> Self {
        Self { link, ended: CancellationToken::new(), why: OnceLock::new() }
    }

    pub(crate) fn link(&self) -> &lapin::Connection {
        &self.link
    }

    /// Ends the epoch. The first reason wins, because later errors only follow from the first.
    pub(crate) fn fail(&self, why: &(impl ToString + ?Sized)) {
        // A channel's failure is often only the end of its connection.
        let _ = self.why.set(why.to_string());
        self.ended.cancel();
    }

    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    pub(crate) fn why(&self) -> String {
        self.why.get().cloned().unwrap_or_else(|| "the connection was lost".to_owned())
    }

    pub(crate) async fn channel(&self) -> Result<lapin::Channel, Error> {
        within(CHANNEL_TIMEOUT, "opening a channel", self.link.create_channel()).await
    }
}

/// Waits for an epoch that has not ended. Returns `None` after the connection was closed.
pub(crate) async fn next(epochs: &mut Epochs) -> Option<Arc<Epoch>> {
    let living = |epoch: &Option<Arc<Epoch>>| epoch.as_ref().is_some_and(|e| !e.is_ended());
    epochs.wait_for(living).await.ok()?.clone()
}

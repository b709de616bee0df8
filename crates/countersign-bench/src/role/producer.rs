//! The producer: many callers, each of which sends one message after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use countersign_amqp::Address;
use countersign_protocol::Tier;
use tokio::task::JoinSet;

use super::wire::{Count, News, Orders};
use super::{business, countersign, textbook, unprotected};
use crate::scheme::Scheme;

/// What the producer is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProducerArguments {
    #[arg(long)]
    pub(crate) scheme: Scheme,
    #[arg(long)]
    pub(crate) amqp_url: Address,
    #[arg(long)]
    pub(crate) callers: u32,
    #[arg(long)]
    pub(crate) tier: Tier,
    /// The port on 127.0.0.1 at which it is asked to send again.
    #[arg(long)]
    pub(crate) port: u16,
}

/// A scheme, as a caller sees it.
pub(super) trait Sending: Clone + Send + Sync + 'static {
    /// Sends a message of its own making, and returns when a caller of this scheme may think that
    /// its work is done.
    fn send(&self, body: Bytes) -> impl Future<Output = Result<()>> + Send;
}

pub(super) async fn play(arguments: ProducerArguments) -> Result<()> {
    match arguments.scheme {
        Scheme::Unprotected => {
            serve(unprotected::Sender::open(&arguments).await, arguments.callers).await
        }
        Scheme::Countersign => {
            serve(countersign::Sender::open(&arguments).await?, arguments.callers).await
        }
        Scheme::Textbook => {
            serve(textbook::Sender::open(&arguments).await?, arguments.callers).await
        }
    }
}

async fn serve(sender: impl Sending, callers: u32) -> Result<()> {
    News::Ready.say()?;
    let (mut orders, count) = (Orders::open(), Count::default());
    let work = async {
        while let Some(messages) = orders.next().await? {
            send_all(&sender, messages, callers, &count).await?;
        }
        Ok(())
    };
    tokio::select! {
        end = work => end,
        failed = count.keep_saying() => failed,
    }
}

/// Lets the callers send so many messages between them.
async fn send_all(sender: &impl Sending, messages: u64, callers: u32, count: &Count) -> Result<()> {
    let body = business::body();
    let begun = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for _ in 0..callers {
        let (sender, body, begun, count) =
            (sender.clone(), body.clone(), Arc::clone(&begun), count.clone());
        running.spawn(async move {
            while begun.fetch_add(1, Ordering::Relaxed) < messages {
                sender.send(body.clone()).await?;
                count.one();
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

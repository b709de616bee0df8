//! The producer: many callers, each of which sends one message after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::task::JoinSet;

use super::scheme::{ProducerArguments, Sending};
use super::wire::{Count, News, Orders};
use super::{business, countersign, textbook, unprotected};
use crate::scheme::Scheme;

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

/// Lets the callers send this many messages between them.
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

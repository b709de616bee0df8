//! The consumer: it does nothing with its messages, and keeps its scheme's promise about them.

use anyhow::Result;

use super::scheme::ConsumerArguments;
use super::wire::{Count, News, Orders};
use super::{countersign, textbook, unprotected};
use crate::scheme::Scheme;

pub(super) async fn play(arguments: ConsumerArguments) -> Result<()> {
    // It is started, that is: it connects while the first messages wait for it.
    News::Ready.say()?;
    let (mut orders, count) = (Orders::open(), Count::default());
    let work = async {
        match arguments.scheme {
            Scheme::Unprotected => unprotected::consume(&arguments, &count).await,
            Scheme::Countersign => countersign::consume(&arguments, &count).await,
            Scheme::Textbook => textbook::consume(&arguments, &count).await,
        }
    };
    tokio::select! {
        end = orders.end() => end,
        failed = work => failed,
        failed = count.keep_saying() => failed,
    }
}

//! The processes of a benchmark, the callback service aside: this program again, in a role.
//!
//! A role reports its progress on standard output (see [`wire`]), takes orders on standard input,
//! and ends when standard input is closed, so that no role outlives the benchmark.

// The talk between roles and benchmark, and the common parts of all schemes.
mod business;
mod scheme;
pub(crate) mod wire;

// The schemes.
mod countersign;
mod textbook;
mod unprotected;

// The processes.
mod consumer;
mod ledger;
mod producer;

use anyhow::Result;
use clap::Subcommand;

pub(crate) use business::{BODY_BYTES, CONSUMER, QUEUE, UPSTREAM};
pub(crate) use ledger::TextbookArguments;
pub(crate) use scheme::{ConsumerArguments, ProducerArguments};

/// A process's role.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// Publishes.
    Producer(ProducerArguments),
    /// Consumes.
    Consumer(ConsumerArguments),
    /// The textbook scheme's service: records confirms, looks checks up.
    Ledger(TextbookArguments),
}

impl Role {
    /// Plays the role until standard input is closed.
    ///
    /// # Errors
    /// When a message does not get through: a benchmark that loses some has no result.
    pub(crate) async fn play(self) -> Result<()> {
        match self {
            Self::Producer(arguments) => producer::play(arguments).await,
            Self::Consumer(arguments) => consumer::play(arguments).await,
            Self::Ledger(arguments) => ledger::play(arguments).await,
        }
    }
}

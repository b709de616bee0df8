//! The processes that a benchmark consists of, the callback service aside: this program again, told
//! what to be.
//!
//! A role says over standard output how far it is (see [`wire`]), takes orders over standard input,
//! and ends when that is closed, so that none outlives the benchmark.

// What roles and benchmark say to each other, and what all schemes have in common.
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

pub(crate) use business::{BODY_BYTES, UPSTREAM};
pub(crate) use ledger::LedgerArguments;
pub(crate) use scheme::{ConsumerArguments, ProducerArguments};

/// What a process is.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// Publishes.
    Producer(ProducerArguments),
    /// Consumes.
    Consumer(ConsumerArguments),
    /// The textbook scheme's service: records confirms, looks checks up.
    Ledger(LedgerArguments),
}

impl Role {
    /// Plays it until standard input is closed.
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

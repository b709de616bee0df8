//! `countersign-bench`: what Countersign costs, measured.
//!
//! Three [schemes](scheme) are compared in one run, round after round. A [run] is one scheme
//! once: fresh queues, a fresh database, and a [process](child) each for the producer, the consumer
//! and the service that records; these processes are this program again in a [role], and the
//! real callback service. [`comparison`] repeats runs and [reports](report) medians; [`memory`]
//! looks at what the processes [used](usage), [`admin`] at how long people wait for answers, and
//! [`ledger`] at how fast the callback service is by itself.

mod arguments;

mod scheme;

mod comparison;

mod memory;

mod admin;

mod ledger;

mod run;

mod child;

mod role;

mod usage;

mod report;

mod progress;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::arguments::{Arguments, Task};

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { task, comparison } = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::new("warn,sqlx=error"))
        .init();
    let done = match task {
        None => interruptible(Box::pin(comparison::compare(comparison))).await,
        Some(Task::Memory(arguments)) => interruptible(Box::pin(memory::measure(arguments))).await,
        Some(Task::Admin(arguments)) => interruptible(Box::pin(admin::measure(arguments))).await,
        Some(Task::Ledger(arguments)) => interruptible(Box::pin(ledger::measure(arguments))).await,
        Some(Task::Role(role)) => role.play().await.map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        progress::say(&format!("countersign-bench: {error:#}"));
        ExitCode::FAILURE
    })
}

/// What a shell says of a process that Ctrl-C ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;

/// Ctrl-C drops the work, and with it every process that it has started.
async fn interruptible(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

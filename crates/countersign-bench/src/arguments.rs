//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use countersign_protocol::Tier;

use crate::role::Role;

const EXAMPLES: &str = "\
Examples:
  countersign-bench                              the comparison: 5 rounds of 60,000 messages each
  countersign-bench --rounds 3 --messages 20000  a quick look
  countersign-bench --json > benchmark.json      for a script; progress stays on the terminal
  countersign-bench admin                        how long lists and counts take, with 5 million rows
  countersign-bench memory                       what our processes need with 100,000 messages waiting
  countersign-bench ledger                       how fast the callback service is by itself

Build it, and the service that it runs, with the release profile first:
  cargo build --release -p countersign-callback -p countersign-bench
It starts a RabbitMQ and a Postgres of its own in a temporary folder and removes them again.";

/// Measures what Countersign costs: against no protection at all, and against the textbook scheme.
///
/// Every round runs each scheme once, in changing order, on the same broker and database, with
/// processes of their own for producer, consumer and callback. The result is the median of the
/// rounds' ratios: rates move with the machine's other work, ratios hardly do.
#[derive(Debug, Parser)]
#[command(name = "countersign-bench", version, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Option<Task>,
    #[command(flatten)]
    pub(crate) comparison: ComparisonArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Holds many messages back in the broker, then lets everything run: how much memory does each
    /// of our processes need? Fails if one needs more than the limit.
    #[command(after_help = "Example:\n  countersign-bench memory --waiting 200000 --limit-mb 100")]
    Memory(MemoryArguments),
    /// Fills the ledger with millions of rows: how long do lists, counts and stories take then?
    #[command(
        after_help = "Example:\n  countersign-bench admin --confirmations 1000000 --overdue 100000"
    )]
    Admin(AdminArguments),
    /// Times the callback service by itself: how fast does it record confirms, look checks up, ask
    /// for resends and resolve overdue messages?
    #[command(after_help = "Example:\n  countersign-bench ledger --single 100000 --shared 500000")]
    Ledger(LedgerArguments),
    /// One of the processes that a benchmark consists of.
    #[command(hide = true, subcommand)]
    Role(Role),
}

/// The comparison's arguments.
#[derive(Clone, Debug, Args)]
pub(crate) struct ComparisonArguments {
    /// How often each scheme runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// How many messages each run measures.
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: Load,
}

/// The memory scenario's arguments.
#[derive(Clone, Debug, Args)]
pub(crate) struct MemoryArguments {
    /// How many messages wait in the broker before the consumer starts.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) waiting: u64,
    /// How many more are published while it works.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: u64,
    /// The most resident memory that any of our processes may need, in millions of bytes.
    #[arg(long, default_value_t = 100)]
    pub(crate) limit_mb: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: Load,
}

/// The arguments of the scenario of lists and counts.
#[derive(Clone, Debug, Args)]
pub(crate) struct AdminArguments {
    /// How many confirms are recorded.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) confirmations: u64,
    /// How many messages are or were overdue.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) overdue: u64,
    /// How often each question is asked.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) asked: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The arguments of the scenario of the callback service by itself.
#[derive(Clone, Debug, Args)]
pub(crate) struct LedgerArguments {
    /// How many messages have a confirm and a check of their own. A fifth as many more become
    /// overdue.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(5..))]
    pub(crate) single: u64,
    /// How many messages share confirms and checks, 1,000 in one envelope.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) shared: u64,
    /// The callback service to run [default: countersign-callback beside this program].
    #[arg(long)]
    pub(crate) callback: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How hard producer, consumer and service work; the same in every scheme.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    /// How many callers publish at once, each one message after the other.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) callers: u32,
    /// How many deliveries the consumer may hold un-acked.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u16).range(1..=2_000))]
    pub(crate) prefetch: u16,
    /// How long after its arming a check comes due. The default is short enough that most checks
    /// are looked up while a run is measured; in production it would be minutes.
    #[arg(long, default_value = "2s")]
    pub(crate) tier: Tier,
    /// How many statements the textbook scheme's service runs at once, and with how many
    /// connections.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) textbook_concurrency: u32,
    /// The callback service to run [default: countersign-callback beside this program].
    #[arg(long)]
    pub(crate) callback: Option<PathBuf>,
    /// How long a run may make no progress before it is given up.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) patience: Duration,
}

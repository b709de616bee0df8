//! `countersign`: the story of messages, and what an operator can do about them.
//!
//! | room | |
//! |---|---|
//! | `commands` | a file or folder for each command: its flags, its help, what it asks for and shows |
//! | `terminal` | what all commands show alike: tables, times, pages, questions, output and exit code |
//! | `connect`  | reaching the callback service, an upstream and the broker, with which credentials |
//!
//! `commands` uses the two others. `connect` uses `terminal` for errors of the command line alone.

mod commands;
mod connect;
mod terminal;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use countersign_protocol::grpc::JobAction;

use crate::commands::act::{self, Act};
use crate::commands::ask::{self, Ask};
use crate::commands::consumers::{self, Consumers};
use crate::commands::doctor::{self, Doctor};
use crate::commands::jobs::{self, Jobs};
use crate::commands::overdue::{self, Overdue};
use crate::commands::quarantine::Quarantine;
use crate::commands::status::{self, Status};
use crate::commands::upstreams::{self, Upstreams};
use crate::terminal::output::{Output, UsageError};

/// Shows the story of messages that Countersign watches over, and has them sent again.
///
/// Exit codes: 0 done and nothing to report, 1 not done or something to report, 64 the command line
/// is wrong.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Prints JSON: the fields of the gRPC answer by their names, times in milliseconds since 1970
    #[arg(long, global = true)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  countersign status 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88
  countersign status 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --json | jq -r .state
  countersign doctor
  countersign overdue --count --by state,cause
  countersign resend --all --state parked --cause resends_used_up --why 'logistics is back'
  countersign ask 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --upstream http://localhost:50051";

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the state of a message, and everything that happened to it, in order
    #[command(after_help = status::help())]
    Status(Status),
    /// Lists or counts the messages that were not confirmed in time
    #[command(after_help = overdue::help())]
    Overdue(Overdue),
    /// Has messages sent again: those named, or all that match
    #[command(after_help = act::RESEND)]
    Resend {
        #[command(flatten)]
        act: Act,
        /// Begins with all messages, without canaries
        #[arg(long)]
        all_at_once: bool,
    },
    /// Closes messages: the callback service does no more about them
    #[command(after_help = act::CLOSE)]
    Close(Act),
    /// Leaves a note on messages
    #[command(after_help = act::NOTE)]
    Note(Act),
    /// Lists the jobs that operators started; shows or cancels one
    #[command(after_help = jobs::EXAMPLES)]
    Jobs(Jobs),
    /// Shows the progress of each consumer
    #[command(after_help = consumers::HELP)]
    Consumers(Consumers),
    /// Shows the state of each upstream
    #[command(after_help = upstreams::HELP)]
    Upstreams(Upstreams),
    /// Asks an upstream to send a message again, now and whatever the message's state
    ///
    /// The command asks the upstream itself, not the callback service: it works while the callback
    /// service is down. The call does not count as one of the message's resends.
    #[command(after_help = ask::HELP)]
    Ask(Ask),
    /// Shows, replays or throws away messages that could not be read or stored
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// Looks for faults in the broker, the databases and the callback service
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(Doctor),
}

/// Wrong flags: `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;
/// Something is left undone, or there is something to report.
const EXIT_FAILURE: u8 = 1;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(help_or_mistake) => {
            // If standard output is closed, there is no place left for an error.
            let _ = help_or_mistake.print();
            return ExitCode::from(if help_or_mistake.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match run(arguments).await {
        Ok(Output { text, is_good }) => {
            // As above.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::from(if is_good { 0 } else { EXIT_FAILURE })
        }
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "countersign: {why:#}");
            ExitCode::from(if why.is::<UsageError>() { EXIT_USAGE } else { EXIT_FAILURE })
        }
    }
}

async fn run(Arguments { command, json }: Arguments) -> anyhow::Result<Output> {
    match command {
        Command::Status(status) => status.run(json).await,
        Command::Overdue(overdue) => overdue.run(json).await,
        Command::Resend { act, all_at_once } => act.run(JobAction::Resend, all_at_once, json).await,
        Command::Close(act) => act.run(JobAction::Close, false, json).await,
        Command::Note(act) => act.run(JobAction::Note, false, json).await,
        Command::Jobs(jobs) => jobs.run(json).await,
        Command::Consumers(consumers) => consumers.run(json).await,
        Command::Upstreams(upstreams) => upstreams.run(json).await,
        Command::Ask(ask) => ask.run(json).await,
        Command::Quarantine(command) => command.run(json).await,
        Command::Doctor(doctor) => doctor.run(json).await,
    }
}

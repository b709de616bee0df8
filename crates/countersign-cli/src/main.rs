//! `countersign`: what became of messages, and what a person can do about it.

mod commands;

mod terminal;

mod connect;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use countersign_protocol::MessageId;
use countersign_protocol::grpc::JobAction;

use crate::commands::acting::Act;
use crate::commands::doctor::Doctor;
use crate::commands::jobs::Jobs;
use crate::commands::overdue::Overdue;
use crate::commands::quarantine::Quarantine;
use crate::connect::address::Address;
use crate::connect::callback::Callback;
use crate::connect::credentials::Credentials;
use crate::terminal::output::{Output, UsageError};

/// Looks at messages that Countersign watches over, and asks for them to be sent again.
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
    /// Tells what became of a message: its state, and everything that happened to it, in order
    #[command(after_help = STATES)]
    Status {
        /// The message's id: a UUIDv7
        #[arg(value_name = "MESSAGE_ID")]
        id: MessageId,
        #[command(flatten)]
        callback: Callback,
    },
    /// Lists or counts what is not confirmed in time
    #[command(after_help = commands::overdue::EXAMPLES)]
    Overdue(Overdue),
    /// Has messages sent again, some or all that match
    #[command(after_help = commands::acting::RESEND)]
    Resend {
        #[command(flatten)]
        act: Act,
        /// Without canaries
        #[arg(long)]
        all_at_once: bool,
    },
    /// Closes messages: no more is done about them
    #[command(after_help = commands::acting::CLOSE)]
    Close {
        #[command(flatten)]
        act: Act,
    },
    /// Leaves a note on messages
    #[command(after_help = commands::acting::NOTE)]
    Note {
        #[command(flatten)]
        act: Act,
    },
    /// Lists what people had done; shows or cancels one
    #[command(after_help = commands::jobs::EXAMPLES)]
    Jobs(Jobs),
    /// Shows how far each consumer is
    #[command(after_help = commands::parties::CONSUMERS)]
    Consumers {
        #[command(flatten)]
        callback: Callback,
    },
    /// Shows how each upstream is doing
    #[command(after_help = commands::parties::UPSTREAMS)]
    Upstreams {
        #[command(flatten)]
        callback: Callback,
    },
    /// Asks an upstream to send a message again, now and whatever its state
    ///
    /// The upstream is asked directly, not the callback service: it works while that is down. It is
    /// not counted as one of the message's resends.
    #[command(after_help = OUTCOMES)]
    Ask {
        /// The message's id: a UUIDv7
        #[arg(value_name = "MESSAGE_ID")]
        id: MessageId,
        /// Where the upstream that has the message is
        #[arg(
            long,
            env = "COUNTERSIGN_UPSTREAM",
            default_value = "http://localhost:50051",
            value_name = "URL"
        )]
        upstream: Address,
        /// Why, for the upstream's log
        #[arg(long, default_value = "asked by hand", value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        credentials: Credentials,
    },
    /// Shows, replays or throws away what could not be read or stored
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// Looks for what is wrong, in the broker, the databases and the callback service
    #[command(after_help = commands::doctor::EXAMPLES)]
    Doctor(Doctor),
}

const STATES: &str = "\
States:
  unknown          nothing is recorded: nobody has confirmed it, and its check is not due yet
  confirmed        everybody who has to has confirmed it (or somebody, before its check is due)
  waiting          overdue; judged again at the time shown
  asking           overdue; its upstream is being asked to send it again
  parked           overdue and given up: a person has to look; a late confirm still resolves it
  never_committed  closed: its transaction did not commit
  withdrawn        closed: its upstream no longer wants it sent
  conflict         its upstream said \"never committed\", and a consumer confirmed it

Example:
  countersign status 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88";

const OUTCOMES: &str = "\
Outcomes:
  REPUBLISHED      sent again, and watched by a fresh check
  NEVER_COMMITTED  its transaction did not commit and never will
  IN_PROGRESS      its transaction may still commit: ask again later
  WITHDRAWN        the upstream no longer wants it sent
  NOT_PUBLISHED    nothing was sent: unroutable, refused, or the broker is away
  UNKNOWN          the upstream cannot tell

Example:
  countersign ask 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --upstream http://localhost:50051";

/// Wrong flags: `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;
/// Not done, or something to report.
const EXIT_FAILURE: u8 = 1;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(asked) => {
            // Standard output may be closed: there is nobody left to tell.
            let _ = asked.print();
            return ExitCode::from(if asked.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match run(arguments).await {
        Ok(Output { text, is_good }) => {
            // As above.
            let _ = writeln!(std::io::stdout(), "{text}");
            if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "countersign: {why:#}");
            ExitCode::from(if why.is::<UsageError>() { EXIT_USAGE } else { EXIT_FAILURE })
        }
    }
}

async fn run(Arguments { command, json }: Arguments) -> anyhow::Result<Output> {
    match command {
        Command::Status { id, callback } => commands::status::status(id, &callback, json).await,
        Command::Overdue(overdue) => overdue.run(json).await,
        Command::Resend { act, all_at_once } => act.run(JobAction::Resend, all_at_once, json).await,
        Command::Close { act } => act.run(JobAction::Close, false, json).await,
        Command::Note { act } => act.run(JobAction::Note, false, json).await,
        Command::Jobs(jobs) => jobs.run(json).await,
        Command::Consumers { callback } => commands::parties::consumers(&callback, json).await,
        Command::Upstreams { callback } => commands::parties::upstreams(&callback, json).await,
        Command::Ask { id, upstream, reason, credentials } => {
            commands::ask::ask(id, &upstream, &reason, &credentials, json).await
        }
        Command::Quarantine(command) => command.run(json).await,
        Command::Doctor(doctor) => doctor.run(json).await,
    }
}

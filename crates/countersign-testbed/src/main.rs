//! `countersign-testbed run -- CMD…`: a private RabbitMQ and Postgres for as long as CMD runs.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use countersign_testbed::Servers;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Private RabbitMQ and Postgres servers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Starts both, runs a command that can use them, and stops both when it ends.
    Run {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let Task::Run { command } = Arguments::parse().task;
    match run(&command).await {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The exit code that a shell gives a process that a signal ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

async fn run(command: &[String]) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let work = async {
        let began = tokio::time::Instant::now();
        let servers = Servers::start().await?;
        say(&format!(
            "RabbitMQ on 127.0.0.1:{} (management {}), Postgres on 127.0.0.1:{}, up after {:.1} s",
            servers.broker().amqp_port,
            servers.broker().management_port,
            servers.postgres().port,
            began.elapsed().as_secs_f64(),
        ));
        let (program, arguments) = command.split_first().context("no command given")?;
        let status = Command::new(program)
            .args(arguments)
            .envs(servers.environment())
            .kill_on_drop(true)
            .status()
            .await
            .with_context(|| format!("{program} could not be started"))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    };
    tokio::select! {
        code = work => code,
        // The terminal sends Ctrl-C to the command, too.
        _ = interrupt.recv() => Ok(ExitCode::from(INTERRUPTED)),
        _ = terminate.recv() => Ok(ExitCode::from(TERMINATED)),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a command line program; standard output belongs to the command it runs"
)]
fn say(what: &str) {
    eprintln!("countersign-testbed: {what}");
}

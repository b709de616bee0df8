//! A program from its first instruction to its exit code.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::setting::{DRAIN, LOG, LOG_FORMAT, Setting};
use crate::settings::Settings;
use crate::settings_table::{known, settings_table};
use crate::{health, logs, process::Process};

/// A program's name and the settings it reads.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The name of the binary, also in the log and in the servers' lists of connections.
    pub name: &'static str,
    /// What the program does, in a sentence or two, with an example. `--help` shows it.
    pub about: &'static str,
    /// The program's own settings, [`listen`](crate::listen) included. Those for logs and draining
    /// are added.
    pub settings: &'static [Setting],
}

/// The exit code for wrong settings or flags: `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;

/// Runs a program: reads its settings, starts logs, and serves until a signal asks it to stop.
///
/// `read` takes the settings apart; the program reports every mistake in them at once (exit code
/// 64). `serve` does the work; when [`Process::shutdown`] is cancelled it finishes the work in hand
/// and returns. After [`Process::drain`] the program leaves without it; a second signal ends the
/// program at once.
///
/// The exit code is 0 after a clean stop and 1 after an error or a missed deadline. With the
/// subcommand `healthcheck` the program only asks the running one for its health; with `settings`
/// it only prints [`settings_table`].
pub fn run<C>(
    program: Program,
    read: impl FnOnce(&mut Settings) -> Option<C>,
    serve: impl AsyncFnOnce(C, Process) -> anyhow::Result<()>,
) -> ExitCode {
    let known = known(program.settings);
    let flags = match command(&program, &known).try_get_matches() {
        Ok(flags) => flags,
        Err(asked) => {
            let code = if asked.use_stderr() { EXIT_USAGE } else { 0 };
            // Standard output may be closed: then no reader is left.
            let _ = asked.print();
            return ExitCode::from(code);
        }
    };
    if flags.subcommand_name() == Some(SETTINGS) {
        return print_settings(program.settings);
    }
    let mut settings = Settings::from_pairs(&known, given(&known, &flags));
    if flags.subcommand_name() == Some(HEALTHCHECK) {
        return health_of_running(&mut settings);
    }
    let filter = settings.parse(LOG.name, logs::filter);
    let format = settings.read(LOG_FORMAT.name);
    let drain = settings.duration(DRAIN.name);
    let listen: Option<SocketAddr> = settings.read(LISTEN);
    let config = read(&mut settings);
    let (Some(filter), Some(format), Some(drain), Some(listen), Some(config), []) =
        (filter, format, drain, listen, config, settings.mistakes())
    else {
        report(&program, settings.mistakes());
        return ExitCode::from(EXIT_USAGE);
    };
    logs::start(filter, format);
    for name in unknown(&known) {
        warn!(setting = name, "not a setting of {}: is its name right?", program.name);
    }
    info!(
        settings = settings.shown(&known),
        "{} {} starts",
        program.name,
        env!("CARGO_PKG_VERSION")
    );
    // No other provider can be in place: the process has only just begun.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _crash_points = fail::FailScenario::setup();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            error!(error = %e, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let process = Process::new(program.name, shutdown.clone(), drain, listen).await;
        supervise(&shutdown, drain, serve(config, process)).await
    });
    // Tasks that outlive the deadline must not hold the process up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

const LISTEN: &str = "COUNTERSIGN_LISTEN";
const HEALTHCHECK: &str = "healthcheck";
/// Hidden, because only the page that lists the settings needs it; `--help` tells an operator the
/// same.
const SETTINGS: &str = "settings";

/// Drives `work` to its end, or to the drain deadline after a signal.
async fn supervise(
    shutdown: &CancellationToken,
    drain: Duration,
    work: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    let overdue = async {
        if let Err(e) = stop_signal().await {
            error!(error = %e, "cannot listen for signals");
            return ExitCode::FAILURE;
        }
        info!(drain_ms = drain.as_millis(), "stopping: finishing the work in hand");
        shutdown.cancel();
        tokio::select! {
            () = tokio::time::sleep(drain) => {
                error!(drain_ms = drain.as_millis(), "not finished in time: leaving the work in hand to the next process");
            }
            _ = stop_signal() => warn!("second signal: leaving at once"),
        }
        ExitCode::FAILURE
    };
    tokio::select! {
        biased;
        result = work => match result {
            Ok(()) => {
                info!("stopped");
                ExitCode::SUCCESS
            }
            Err(e) => {
                error!(error = format!("{e:#}"), "stopped by an error");
                ExitCode::FAILURE
            }
        },
        code = overdue => code,
    }
}

/// Returns when a signal asks the process to stop.
async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The command line: a flag for each setting, whose value is still a text.
fn command(program: &Program, known: &[Setting]) -> Command {
    let flag = |setting: &Setting| {
        let default = match setting.default {
            None if setting.required => " [required]".to_owned(),
            Some("") | None => String::new(),
            Some(text) => format!(" [default: {text}]"),
        };
        Arg::new(setting.name)
            .long(setting.flag())
            .value_name("VALUE")
            .env(setting.name)
            .hide_env_values(true)
            .help(format!("{}{default}", setting.help))
    };
    Command::new(program.name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(program.about)
        .args(known.iter().map(flag))
        .subcommand(
            Command::new(HEALTHCHECK)
                .about("Asks the program running at COUNTERSIGN_LISTEN for its health: exit code 0 if it serves"),
        )
        .subcommand(Command::new(SETTINGS).about("Prints the settings as Markdown").hide(true))
}

fn given(known: &[Setting], flags: &ArgMatches) -> Vec<(String, String)> {
    let value = |setting: &Setting| {
        flags.get_one::<String>(setting.name).map(|text| (setting.name.to_owned(), text.clone()))
    };
    known.iter().filter_map(value).collect()
}

/// Names in the environment that look like a setting of ours and are none.
fn unknown(known: &[Setting]) -> Vec<String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("COUNTERSIGN_"))
        .filter(|name| known.iter().all(|setting| setting.name != name))
        .collect()
}

#[expect(clippy::print_stderr, reason = "wrong settings may be those of the log itself")]
fn report(program: &Program, mistakes: &[String]) {
    eprintln!("{}: wrong settings, nothing was started:", program.name);
    for mistake in mistakes {
        eprintln!("  {mistake}");
    }
    eprintln!("Each is a variable in the environment or a flag; see {} --help.", program.name);
}

#[expect(clippy::print_stdout, reason = "a subcommand for a person or a script")]
fn print_settings(own: &[Setting]) -> ExitCode {
    print!("{}", settings_table(own));
    ExitCode::SUCCESS
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a subcommand for a person or a script"
)]
fn health_of_running(settings: &mut Settings) -> ExitCode {
    let Some(listen) = settings.read::<SocketAddr>(LISTEN) else {
        eprintln!("{}", settings.mistakes().join("\n"));
        return ExitCode::from(EXIT_USAGE);
    };
    match health::ask(listen) {
        Ok(()) => {
            println!("serving");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why:#}");
            ExitCode::FAILURE
        }
    }
}

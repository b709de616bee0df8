//! `./demo`: Countersign seen to heal.
//!
//! The demo starts a private broker and database and the three services, places orders, and
//! meanwhile kills services and destroys messages and confirms. At the end it reads every order's
//! fate from the databases. However the demo ends, it leaves nothing behind.

mod arguments;

// The servers and the three services.
mod service;
mod stage;

// Callers place orders; the director does harm meanwhile.
mod director;
mod flow;
mod placer;
mod schedule;

// Databases and queues, looked at from outside.
mod databases;
mod queues;
mod settling;

// The lines, the table and the JSON.
mod report;
mod story;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use console::style;
use indicatif::HumanCount;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use arguments::Arguments;
use databases::Databases;
use director::{Destroyed, Director};
use flow::Flow;
use placer::Placer;
use queues::Queues;
use report::Report;
use stage::Stage;
use story::Story;

/// `EX_USAGE` of sysexits.h, as of all of Countersign's programs.
const EXIT_USAGE: u8 = 64;
/// The exit code that a shell gives a process that a signal ended: 128 and the signal's number.
const EXIT_INTERRUPTED: u8 = 130;
const EXIT_TERMINATED: u8 = 143;
const NEXT: &str = "
What next:  ./demo --keep     leaves all of it running, and says how to look into it
            README.md         an upstream and a downstream in twenty lines each";
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(asked) => {
            let code = if asked.use_stderr() { EXIT_USAGE } else { 0 };
            // Standard output may be closed: then no reader is left.
            let _ = asked.print();
            return ExitCode::from(code);
        }
    };
    match run(&arguments).await {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let (is_good, stage) = tokio::select! {
        played = Box::pin(perform(arguments)) => played?,
        // Dropping the performance kills all processes and removes their data.
        code = stop.asked() => return Ok(code),
    };
    if arguments.keep {
        hint(&format!("\nAll of it runs on until Ctrl-C:\n\n{}\n", stage.directions()));
        stop.asked().await;
    } else if !arguments.json {
        hint(NEXT);
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays the demo, prints the result, and says whether it is good. The services still run then.
async fn perform(arguments: &Arguments) -> Result<(bool, Stage)> {
    let mut story = Story::begin();
    let (orders, rate, seed) = (arguments.orders, arguments.rate(), arguments.seed());
    story.say(&title(orders, rate, seed));
    story.say("");
    let stage = Stage::build(&story).await?;
    let databases = Databases::connect(stage.postgres.address()).await?;
    let queues = Queues::of(stage.broker.address())?;
    let flow = Flow::new();
    let placer = Placer::new(&stage.orders, &flow)?;
    story.show_bars(orders);
    let played = {
        let director = Director {
            stage: &stage,
            flow: &flow,
            queues: &queues,
            databases: &databases,
            story: &story,
        };
        let play = async {
            let planned = schedule::draw(seed, orders);
            let (destroyed, ()): (Destroyed, ()) =
                tokio::try_join!(director.run(&planned, orders), placer.place_all(orders, rate))?;
            story.done("all orders are placed; waiting until what was destroyed has healed");
            let settled = settling::settle(&databases, &queues, healing_time(orders)).await?;
            anyhow::Ok((destroyed, settled))
        };
        tokio::select! {
            played = play => played,
            failed = watch(&stage, &databases, &story) => failed.map(|never| match never {}),
        }
    };
    story.end();
    let (destroyed, settled) = played?;
    let report = Report { settled, destroyed, orders, seed, took: story.elapsed() };
    tell(&report, arguments);
    Ok((report.is_good(), stage))
}

/// Shows the progress until a service ends by itself or a database does not answer.
async fn watch(
    stage: &Stage,
    databases: &Databases,
    story: &Story,
) -> Result<std::convert::Infallible> {
    loop {
        stage.check_alive()?;
        story.progress(&databases.progress().await?);
        sleep(PROGRESS_EVERY).await;
    }
}

/// How long healing may take after the last order: a check's delay and a resend's, a few times
/// over. It grows with the number of orders.
fn healing_time(orders: u64) -> Duration {
    Duration::from_secs(45) + Duration::from_millis(5) * u32::try_from(orders).unwrap_or(u32::MAX)
}

fn title(orders: u64, rate: f64, seed: u64) -> String {
    format!(
        "{}\n{} orders, {rate:.0} per second, are placed and shipped. Meanwhile services are killed (SIGKILL),\n\
         and messages and confirms are destroyed. Seed {seed} draws the moments.",
        style("Countersign, seen to heal").for_stderr().bold(),
        HumanCount(orders),
    )
}

#[expect(clippy::print_stdout, reason = "the result is what the program is for")]
fn tell(report: &Report, arguments: &Arguments) {
    if arguments.json {
        println!("{}", report.json());
    } else {
        println!("\n{}\n{}", report.table(), report.verdict());
    }
}

#[expect(clippy::print_stderr, reason = "for people; standard output is for the result")]
fn hint(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stderr, reason = "the last words")]
fn complain(error: &anyhow::Error) {
    eprintln!("demo: {error:#}");
}

/// Ctrl-C, or SIGTERM.
#[derive(Debug)]
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("no signals can be listened for");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) -> ExitCode {
        let code = tokio::select! {
            _ = self.interrupt.recv() => EXIT_INTERRUPTED,
            _ = self.terminate.recv() => EXIT_TERMINATED,
        };
        hint("\ndemo: stopping everything");
        ExitCode::from(code)
    }
}

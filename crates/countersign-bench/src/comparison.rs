//! Every scheme, round after round.

use std::process::ExitCode;

use anyhow::Result;

use crate::arguments::ComparisonArguments;
use crate::progress;
use crate::report::{Comparison, Measured, Round};
use crate::run::{Ground, Run};
use crate::scheme::Scheme;

/// How many messages go through before the clock starts, as a part of those that are measured:
/// connections are made, statements prepared, and the first checks come due while it runs.
const WARM_UP_PART: u64 = 10;

pub(crate) async fn compare(arguments: ComparisonArguments) -> Result<ExitCode> {
    let ComparisonArguments { rounds, messages, json, load } = arguments;
    let spinner = progress::spinner("starting RabbitMQ and Postgres");
    let ground = Ground::prepare(load.clone()).await?;
    spinner.finish_and_clear();
    let mut measured = Vec::new();
    for number in 1..=rounds {
        let round = round(&ground, number, rounds, messages).await?;
        progress::say(&format!("round {number} of {rounds}: {round}"));
        measured.push(round);
    }
    let comparison = Comparison::of(measured, messages, &load);
    comparison.print(json)?;
    Ok(ExitCode::SUCCESS)
}

/// Each scheme once. A different one is first each time, so that none always finds the machine as
/// another left it.
async fn round(ground: &Ground, number: u32, of: u32, messages: u64) -> Result<Round> {
    let mut order = Scheme::ALL;
    order.rotate_left(number as usize % Scheme::ALL.len());
    let mut round = Vec::new();
    for scheme in order {
        let what = format!("round {number} of {of}: {scheme}");
        round.push(measure(ground, scheme, messages, &what).await?);
    }
    round.sort_by_key(|measured| measured.scheme);
    Ok(Round(round))
}

async fn measure(ground: &Ground, scheme: Scheme, messages: u64, what: &str) -> Result<Measured> {
    let mut run = Run::start(ground, scheme).await?;
    run.consume().await?;
    let warm_up = (messages / WARM_UP_PART).max(1);
    let bar = progress::bar(&format!("{what}, warming up"), warm_up);
    run.publish(warm_up).await?;
    run.finished(&bar).await?;
    bar.finish_and_clear();

    let bar = progress::bar(what, messages);
    run.publish(messages).await?;
    let finish = run.finished(&bar).await?;
    bar.finish_and_clear();
    Ok(Measured::new(scheme, messages, finish, run.overdue().await?, run.usage()?))
}

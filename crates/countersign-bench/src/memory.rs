//! How much memory our processes need while many messages wait in the broker.

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::arguments::MemoryArguments;
use crate::progress;
use crate::report::{megabytes, print};
use crate::run::{Ground, Run};
use crate::scheme::Scheme;
use crate::usage::Usage;

/// The result: how much memory each process needed.
#[derive(Debug, Serialize)]
struct Outcome {
    waiting: u64,
    messages: u64,
    /// How many messages were not recorded when their check came due: the callback service holds a
    /// row for each of them in its database.
    overdue: u64,
    limit_bytes: u64,
    within_limit: bool,
    usage: Vec<Usage>,
}

pub(crate) async fn measure(arguments: MemoryArguments) -> Result<ExitCode> {
    let MemoryArguments { waiting, messages, limit_mb, json, load } = arguments;
    let spinner = progress::spinner("starting RabbitMQ and Postgres");
    let ground = Ground::prepare(load).await?;
    spinner.finish_and_clear();

    let mut run = Run::start(&ground, Scheme::Countersign).await?;
    let bar = progress::bar("filling the queue", waiting);
    run.publish(waiting).await?;
    run.accepted(&bar).await?;
    bar.finish_and_clear();

    run.consume().await?;
    let bar = progress::bar("everything at full rate", waiting + messages);
    run.publish(messages).await?;
    run.finished(&bar).await?;
    bar.finish_and_clear();

    let limit_bytes = limit_mb * 1_000_000;
    let usage = run.usage()?;
    let within_limit = usage.iter().all(|usage| usage.peak_resident_bytes < limit_bytes);
    let overdue = run.overdue().await?;
    let outcome = Outcome { waiting, messages, overdue, limit_bytes, within_limit, usage };
    let text = if json { serde_json::to_string_pretty(&outcome)? } else { outcome.table() };
    print(&text)?;
    Ok(if within_limit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Outcome {
    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners()).set_header([
            "process",
            "peak resident MB",
            &format!("under {:.0}", megabytes(self.limit_bytes)),
        ]);
        table.add_rows(self.usage.iter().map(|usage| {
            let within = if usage.peak_resident_bytes < self.limit_bytes { "yes" } else { "NO" };
            let peak = format!("{:.1}", megabytes(usage.peak_resident_bytes));
            [usage.process.to_owned(), peak, within.to_owned()]
        }));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!(
            "{table}\n{} messages waited in the broker, {} of them became overdue; {} more were published while they were consumed.",
            self.waiting, self.overdue, self.messages
        )
    }
}

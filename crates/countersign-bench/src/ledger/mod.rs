//! How fast the callback service records, looks up, asks for resends and resolves.
//!
//! Each step starts with its confirms or checks in the broker, so that the service alone is timed:
//! no producer and no consumer runs meanwhile, and the [upstream] answers at once.

mod filler;

mod stage;

mod upstream;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use countersign_protocol::MessageId;
use countersign_protocol::envelope::MAX_ENTRIES;
use serde::Serialize;
use tokio::time::Instant;

use self::filler::Filler;
use self::stage::{Service, Stage};
use self::upstream::Upstream;
use crate::arguments::LedgerArguments;
use crate::progress;
use crate::report::{grouped, megabytes, print};

/// The entries of a shared envelope: the most that the wire contract allows.
const SHARED: usize = MAX_ENTRIES;

/// One message becomes overdue for so many that have an envelope of their own: each of them costs a
/// call over gRPC, and the resends must not outlast the other steps.
const SINGLE_PER_OVERDUE: usize = 5;

/// The result: how fast each step went.
#[derive(Debug, Serialize)]
struct Outcome {
    single: usize,
    shared: usize,
    entries_per_shared_envelope: usize,
    steps: Vec<Step>,
}

/// What the service did with these messages, and the memory of the process that did it.
#[derive(Debug, Serialize)]
struct Step {
    what: &'static str,
    envelopes: &'static str,
    messages: usize,
    seconds: f64,
    per_second: f64,
    peak_resident_bytes: u64,
}

pub(crate) async fn measure(arguments: LedgerArguments) -> Result<ExitCode> {
    let LedgerArguments { single, shared, json, callback } = arguments;
    let (single, shared) = (usize::try_from(single)?, usize::try_from(shared)?);
    let spinner = progress::spinner("starting RabbitMQ and Postgres");
    let upstream = Upstream::start().await?;
    let stage = Stage::prepare(callback, &upstream).await?;
    stage.make_tables().await?;
    let filler = Filler::connect(stage.amqp_url()).await?;
    spinner.finish_and_clear();
    let mut steps = Vec::new();
    for (envelopes, count, together) in [("single", single, 1), ("shared", shared, SHARED)] {
        steps.extend(record_and_look_up(&stage, &filler, envelopes, count, together).await?);
    }
    steps.extend(resend_and_resolve(&stage, &filler, single / SINGLE_PER_OVERDUE).await?);
    filler.close().await;
    let outcome = Outcome { single, shared, entries_per_shared_envelope: SHARED, steps };
    print(&if json { serde_json::to_string_pretty(&outcome)? } else { outcome.table() })?;
    Ok(ExitCode::SUCCESS)
}

/// The service records these messages' confirms; started anew, it looks their checks up.
async fn record_and_look_up(
    stage: &Stage,
    filler: &Filler,
    envelopes: &'static str,
    count: usize,
    together: usize,
) -> Result<[Step; 2]> {
    let spinner = progress::spinner(&format!("{count} confirms, {envelopes}"));
    let ids = generate(count);
    filler.confirms(&ids, together).await?;
    stage.clear().await?;
    let mut service = stage.start(&[])?;
    const RECORDED: &str = "SELECT count(*) FROM confirmation";
    let started = service.started;
    let seconds = stage.time(&mut service, started, RECORDED, count).await?;
    let recorded = Step::new("confirms recorded", envelopes, count, seconds, &service)?;
    drop(service);

    spinner.set_message(format!("{count} checks, {envelopes}"));
    filler.checks(&ids, together).await?;
    // No consumer confirms this message: when it is parked, the checks before it are looked up.
    filler.checks(&generate(1), 1).await?;
    let mut service = stage.start(&["COUNTERSIGN_MAX_RESENDS=0"])?;
    let started = service.started;
    const PARKED: &str = "SELECT count(*) FROM overdue WHERE state = 'parked'";
    let seconds = stage.time(&mut service, started, PARKED, 1).await?;
    let overdue = stage.count("SELECT count(*) FROM overdue").await?;
    ensure!(overdue == 1, "{overdue} messages are overdue, and all but one were confirmed");
    let looked_up = Step::new("checks looked up", envelopes, count, seconds, &service)?;
    spinner.finish_and_clear();
    Ok([recorded, looked_up])
}

/// The service asks for a resend of each of these messages; then their confirms come.
async fn resend_and_resolve(stage: &Stage, filler: &Filler, count: usize) -> Result<[Step; 2]> {
    let spinner = progress::spinner(&format!("{count} resends"));
    stage.calm().await?;
    let ids = generate(count);
    filler.checks(&ids, SHARED).await?;
    // The rate limit is not what is measured.
    let settings = ["COUNTERSIGN_MAX_RESENDS=1", "COUNTERSIGN_RESEND_RATE=100000"];
    let mut service = stage.start(&settings)?;
    let started = service.started;
    const ASKED: &str = "SELECT count(*) FROM overdue WHERE resends = 1 AND state = 'waiting'";
    let seconds = stage.time(&mut service, started, ASKED, count).await?;
    let asked = Step::new("resends asked for", "shared", count, seconds, &service)?;

    spinner.set_message(format!("{count} overdue messages to resolve"));
    let published = Instant::now();
    filler.confirms(&ids, SHARED).await?;
    const RESOLVED: &str = "SELECT count(*) FROM overdue WHERE state = 'confirmed'";
    let seconds = stage.time(&mut service, published, RESOLVED, count).await?;
    let resolved = Step::new("overdue messages resolved", "shared", count, seconds, &service)?;
    spinner.finish_and_clear();
    Ok([asked, resolved])
}

fn generate(count: usize) -> Vec<MessageId> {
    std::iter::repeat_with(MessageId::generate).take(count).collect()
}

impl Step {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 messages")]
    fn new(
        what: &'static str,
        envelopes: &'static str,
        messages: usize,
        seconds: f64,
        service: &Service,
    ) -> Result<Self> {
        let per_second = messages as f64 / seconds;
        let peak_resident_bytes = service.usage()?.peak_resident_bytes;
        Ok(Self { what, envelopes, messages, seconds, per_second, peak_resident_bytes })
    }
}

impl Outcome {
    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners()).set_header([
            "step",
            "envelopes",
            "messages",
            "seconds",
            "messages/s",
            "peak MB",
        ]);
        table.add_rows(self.steps.iter().map(|step| {
            [
                step.what.to_owned(),
                step.envelopes.to_owned(),
                step.messages.to_string(),
                format!("{:.2}", step.seconds),
                grouped(step.per_second),
                format!("{:.1}", megabytes(step.peak_resident_bytes)),
            ]
        }));
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!(
            "{table}\nAn envelope of one message is single; a shared one holds up to {SHARED}.\nLook-ups are timed from the start of the service's process, the other steps from the last look that saw no row.\nThe peak is that of the step's process; the last two steps share one."
        )
    }
}

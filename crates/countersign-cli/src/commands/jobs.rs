//! `countersign jobs`: the jobs that operators started, ended and running.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use countersign_protocol::grpc::{
    CancelJobRequest, GetJobRequest, JobItem, ListJobItemsRequest, ListJobsRequest,
};
use serde_json::json;

use crate::commands::job::{self, Followed, Leaving, follow};
use crate::connect::address::refused;
use crate::connect::callback::{Callback, Client};
use crate::connect::credentials::Credentials;
use crate::terminal::ask_person;
use crate::terminal::clock::clock;
use crate::terminal::output::Output;
use crate::terminal::page::{Fetched, Page};
use crate::terminal::table::{Column, Rows, count, first_of};

/// The flags of `countersign jobs`.
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    #[command(flatten)]
    callback: Callback,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the jobs, newest first
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Shows a job with the result of each of its messages
    #[command(after_help = "\
Exit code 1 if messages failed, or the job was stopped or cancelled.

Examples:
  countersign jobs show JOB_ID
  countersign jobs show JOB_ID --state failed --all
  countersign jobs show JOB_ID --follow")]
    Show {
        /// The job's id
        #[arg(value_name = "JOB_ID")]
        id: String,
        /// Shows only messages in this state: pending, begun, succeeded, failed or skipped
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        /// Waits for the job's end first
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        page: Page,
    },
    /// Cancels a job: it begins no further message; messages under way come to their end
    #[command(after_help = "\
Example:
  countersign jobs cancel JOB_ID --why 'logistics is down again'")]
    Cancel {
        /// The job's id
        #[arg(value_name = "JOB_ID")]
        id: String,
        #[command(flatten)]
        credentials: Credentials,
        /// The reason: kept for ever, with your name
        #[arg(long, value_name = "TEXT")]
        why: String,
        /// Your name
        #[arg(long, env = "USER", value_name = "NAME")]
        who: String,
    },
}

/// Below the flags in `--help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  countersign jobs
  countersign jobs list --all --json | jq '.jobs[] | select(.state == \"running\")'
  countersign jobs show JOB_ID --state failed
  countersign jobs cancel JOB_ID --why 'logistics is down again'";

impl Jobs {
    /// Asks the callback service.
    ///
    /// # Errors
    /// When the callback service does not answer, or there is no such job.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Output> {
        let mut client = self.callback.client().await?;
        match self.command {
            None => list(&mut client, Page::DEFAULT, as_json).await,
            Some(Command::List { page }) => list(&mut client, page, as_json).await,
            Some(Command::Show { id, state, follow, page }) => {
                show(&mut client, id, state.unwrap_or_default(), follow, page, as_json).await
            }
            Some(Command::Cancel { id, credentials, why, who }) => {
                let request = CancelJobRequest { job_id: id, who, why };
                let answer = client.cancel_job(credentials.call(request)?).await;
                let job = answer.map_err(|e| refused(&e))?.into_inner().job.unwrap_or_default();
                Output::json_or_text(as_json, &job::json(&job)?, || job::sentence(&job))
            }
        }
    }
}

async fn list(client: &mut Client, page: Page, as_json: bool) -> anyhow::Result<Output> {
    let fetched = page.fetch(async |page_size, page_token| {
        let request = ListJobsRequest { page_size, page_token };
        let page = client.list_jobs(request).await.map_err(|e| refused(&e))?.into_inner();
        Ok((page.jobs, page.next_page_token))
    });
    let jobs = fetched.await?;
    if as_json {
        let items: Vec<_> = jobs.items.iter().map(job::json).collect::<Result<_, _>>()?;
        let json = json!({ "jobs": items, "next_page_token": jobs.next_page_token });
        return Ok(Output::good(json.to_string()));
    }
    if jobs.items.is_empty() {
        return Ok(Output::good("no job was ever started"));
    }
    use Column::{Number, Text};
    let mut rows = Rows::new(&[
        Text("job_id"),
        Text("created"),
        Text("action"),
        Text("state"),
        Number("messages"),
        Number("succeeded"),
        Number("failed"),
        Number("skipped"),
        Text("who"),
        Text("why"),
    ]);
    for job in &jobs.items {
        rows.add([
            job.job_id.clone(),
            clock(job.created_at_ms),
            job.action().as_str_name().to_lowercase(),
            job.state.clone(),
            count(job.items),
            count(job.succeeded),
            count(job.failed),
            count(job.skipped),
            job.who.clone(),
            job.why.clone(),
        ]);
    }
    let mut text = rows.print();
    if jobs.is_cut_off() {
        text = format!("{text}\n{}", first_of(jobs.items.len(), None));
    }
    Ok(Output::good(text))
}

async fn show(
    client: &mut Client,
    job_id: String,
    state: String,
    wait: bool,
    page: Page,
    as_json: bool,
) -> anyhow::Result<Output> {
    let answer = client.get_job(GetJobRequest { job_id: job_id.clone() }).await;
    let job = answer.map_err(|e| refused(&e))?.into_inner().job;
    let mut job = job.with_context(|| format!("there is no job {job_id}: countersign jobs"))?;
    if wait {
        match follow(client, job, Leaving::listen()?).await? {
            Followed::Ended(ended) => job = ended,
            left @ Followed::Left(_) => return left.output(as_json),
        }
    }
    let fetched = page.fetch(async |page_size, page_token| {
        let (job_id, state) = (job_id.clone(), state.clone());
        let request = ListJobItemsRequest { job_id, state, page_size, page_token };
        let page = client.list_job_items(request).await.map_err(|e| refused(&e))?.into_inner();
        Ok((page.items, page.next_page_token))
    });
    let messages = fetched.await?;
    let Fetched { items, next_page_token } = &messages;
    let json = json!({ "job": job::json(&job)?, "items": items,
        "next_page_token": next_page_token });
    let output = Output::json_or_text(as_json, &json, || {
        let mut text = format!("{}\n{}", job::origin(&job), job::sentence(&job));
        if job.items_forgotten {
            text = format!(
                "{text}\n  its messages are forgotten: COUNTERSIGN_PARKED_RETENTION is over"
            );
        }
        if !items.is_empty() {
            text = format!("{text}\n{}", table(items));
        }
        if messages.is_cut_off() {
            let all = state.is_empty().then_some(job.items);
            text = format!("{text}\n{}", first_of(items.len(), all));
        }
        text
    })?;
    if !job::is_running(&job) && !job::is_good(&job) && !as_json {
        ask_person::tell("the job did not do all that it was to do");
    }
    Ok(output.good_if(job::is_good(&job)))
}

fn table(items: &[JobItem]) -> String {
    use Column::Text;
    let mut rows = Rows::new(&[
        Text("message_id"),
        Text("upstream"),
        Text("state"),
        Text("ended"),
        Text("result"),
    ]);
    for item in items {
        rows.add([
            item.message_id.clone(),
            item.upstream.clone(),
            item.state.clone(),
            if item.ended_at_ms > 0 { clock(item.ended_at_ms) } else { "-".to_owned() },
            item.result.clone(),
        ]);
    }
    rows.print()
}

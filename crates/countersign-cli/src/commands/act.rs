//! `countersign resend`, `close` and `note`: an operator's actions on overdue messages.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use countersign_protocol::MessageId;
use countersign_protocol::grpc::{CreateJobRequest, CreateJobResponse, Job, JobAction};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tonic::Code;
use uuid::Uuid;

use crate::commands::filter::Filter;
use crate::commands::job::{self, Leaving, follow};
use crate::commands::overdue;
use crate::connect::address::{is_definite, refused};
use crate::connect::callback::{Callback, Client};
use crate::connect::credentials::Credentials;
use crate::terminal::ask_person;
use crate::terminal::output::{Output, UsageError};
use crate::terminal::table::quantity;

/// For how long a job is asked for while no answer says whether it was made, and how often. The service takes
/// 45 s at most to make one.
const ASKED_FOR: Duration = Duration::from_secs(90);
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// The flags of `resend`, `close` and `note`.
#[derive(Debug, Args)]
pub(crate) struct Act {
    #[command(flatten)]
    callback: Callback,
    #[command(flatten)]
    credentials: Credentials,
    /// The messages' ids
    #[arg(value_name = "MESSAGE_ID", conflicts_with = "all")]
    ids: Vec<MessageId>,
    /// Takes every overdue message that the flags below match
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// The reason: kept for ever, with your name
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    why: String,
    /// Your name
    #[arg(long, env = "USER", default_value = "", hide_default_value = true, value_name = "NAME")]
    who: String,
    /// Shows what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Does not ask before it begins
    #[arg(long)]
    yes: bool,
    /// Begins at most N messages in a second; without it, as many as the upstream's rate limit allows
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
}

/// Below the flags of `resend`.
pub(crate) const RESEND: &str = "\
Each message gets one more resend, even if its resends are used up, and is watched as after any
resend. The job begins with 1 message, then 5, then 25, then all, each step when the one before is
confirmed. The job stops by itself when the first message fails, and later when more than a fifth of
the messages have failed. Ctrl-C leaves the job running. Exit code 1 if messages failed.

Examples:
  countersign resend 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --why 'address corrected'
  countersign resend --all --state parked --consumer logistics --cause resends_used_up --dry-run
  countersign resend --all --state parked --cause resends_used_up --rate 50 --why 'logistics is back' --yes";

/// Below the flags of `close`.
pub(crate) const CLOSE: &str = "\
The callback service does no more about the messages. It still records a late confirm, which changes
nothing. Exit code 1 if messages failed.

Examples:
  countersign close 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --why 'shipped by hand, ticket 4711'
  countersign close --all --state parked --cause rejected --older-than 30d --why 'known bad articles'";

/// Below the flags of `note`.
pub(crate) const NOTE: &str = "\
countersign status shows the note to the next operator.

Example:
  countersign note 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --why 'asked the warehouse, ticket 4711'";

impl Act {
    /// Shows the plan, asks, starts the job and follows it to its end.
    ///
    /// # Errors
    /// When the callback service does not answer or refuses, or the command line does not say which
    /// messages.
    pub(crate) async fn run(
        self,
        action: JobAction,
        all_at_once: bool,
        as_json: bool,
    ) -> anyhow::Result<Output> {
        self.check()?;
        let mut client = self.callback.client().await?;
        let planned = self.create(&mut client, self.request(action, all_at_once, None)).await?;
        let items = planned.job.as_ref().map_or(0, |job| job.items);
        let plan = || plan(action, items, &planned);
        if self.dry_run {
            let json = json!({ "job": job::json(&planned.job.clone().unwrap_or_default())?,
                "groups": planned.groups });
            return Output::json_or_text(as_json, &json, plan);
        }
        if items == 0 {
            let nothing = job::json(&Job { action: action.into(), ..Job::default() })?;
            let output = Output::json_or_text(as_json, &nothing, || {
                "there is nothing to do: no message matches that is overdue".to_owned()
            })?;
            return Ok(output.good_if(self.all));
        }
        if !self.yes {
            ask_person::tell(&plan());
            if !ask_person::agrees("Do it?")? {
                return Ok(Output::good("nothing was done").good_if(false));
            }
        }
        // Before there is a job: an operator who leaves early is told how to find it.
        let leaving = Leaving::listen()?;
        let request = self.request(action, all_at_once, Some(Uuid::now_v7()));
        let created = self.create(&mut client, request).await?;
        follow(&mut client, created.job.unwrap_or_default(), leaving).await?.output(as_json)
    }

    fn check(&self) -> anyhow::Result<()> {
        let wrong = match (self.ids.is_empty(), self.all) {
            (true, false) => {
                "name the messages, or say --all and which: --state, --cause, --consumer …"
            }
            (false, _) if !self.filter.is_empty() => {
                "name the messages, or describe them with --all: not both"
            }
            (true, true) if self.filter.is_empty() => {
                "--all of which? Say it, such as --state parked"
            }
            _ if !self.dry_run && (self.why.trim().is_empty() || self.who.trim().is_empty()) => {
                "say --why, and --who if USER is not set: the job keeps them for the next operator"
            }
            _ if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) => {
                "--rate: use a number above 0"
            }
            _ => return Ok(()),
        };
        Err(UsageError(wrong.to_owned()).into())
    }

    /// What is asked: a dry run if there is no id for a job.
    fn request(&self, action: JobAction, all_at_once: bool, job: Option<Uuid>) -> CreateJobRequest {
        CreateJobRequest {
            action: action.into(),
            message_ids: self.ids.iter().map(ToString::to_string).collect(),
            filter: self.all.then(|| self.filter.wire()),
            who: self.who.clone(),
            why: self.why.clone(),
            dry_run: job.is_none(),
            rate_per_second: self.rate.unwrap_or(0.0),
            all_at_once,
            job_id: job.map(|id| id.to_string()).unwrap_or_default(),
        }
    }

    /// Asks until there is an answer: the job's id keeps a second request from making a second job.
    async fn create(
        &self,
        client: &mut Client,
        request: CreateJobRequest,
    ) -> anyhow::Result<CreateJobResponse> {
        let began = Instant::now();
        loop {
            match client.create_job(self.credentials.call(request.clone())?).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if status.code() == Code::InvalidArgument => {
                    return Err(UsageError(status.message().to_owned()).into());
                }
                Err(status) if request.dry_run || is_definite(&status) => {
                    return Err(refused(&status));
                }
                Err(_) if began.elapsed() < ASKED_FOR => sleep(BETWEEN_TRIES).await,
                Err(status) => {
                    let why = refused(&status);
                    let id = &request.job_id;
                    bail!("{why}; whether there is a job is not known: countersign jobs show {id}");
                }
            }
        }
    }
}

fn plan(action: JobAction, items: u64, planned: &CreateJobResponse) -> String {
    let verb = match action {
        JobAction::Resend => "to be sent again",
        JobAction::Close => "to be closed",
        JobAction::Note | JobAction::Unspecified => "to get a note",
    };
    let total = format!("{} {verb}", quantity(items, "message"));
    if planned.groups.is_empty() {
        return total;
    }
    format!("{}\n{total}", overdue::groups(&planned.groups, &["state", "upstream", "cause"]))
}

//! `countersign resend`, `close` and `note`: what a person does about overdue messages.

use clap::Args;
use countersign_protocol::MessageId;
use countersign_protocol::grpc::{CreateJobRequest, CreateJobResponse, Job, JobAction};
use serde_json::json;
use tonic::Code;

use crate::commands::filter::Filter;
use crate::commands::job::{self, Leaving, follow};
use crate::commands::overdue;
use crate::connect::address::refused;
use crate::connect::callback::{Callback, Client};
use crate::connect::credentials::Credentials;
use crate::terminal::ask_person;
use crate::terminal::output::{Output, UsageError};
use crate::terminal::table::quantity;

/// What is done, to which, and why.
#[derive(Debug, Args)]
pub(crate) struct Act {
    #[command(flatten)]
    callback: Callback,
    #[command(flatten)]
    credentials: Credentials,
    /// These messages
    #[arg(value_name = "MESSAGE_ID", conflicts_with = "all")]
    ids: Vec<MessageId>,
    /// All that the flags below apply to
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Why: kept for ever, with your name
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    why: String,
    /// Who you are
    #[arg(long, env = "USER", default_value = "", hide_default_value = true, value_name = "NAME")]
    who: String,
    /// Only says what it would be
    #[arg(long)]
    dry_run: bool,
    /// Does not ask
    #[arg(long)]
    yes: bool,
    /// Begins at most so many in a second; otherwise as many as the upstream's budget allows
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
}

/// What to type.
pub(crate) const RESEND: &str = "\
One more resend for each, even if they are used up; then it is watched as after any resend. It begins
with 1 message, then 5, then 25, then all, each step when the one before is confirmed, and stops by
itself when more than a fifth is not. Ctrl-C leaves it running. Exit code 1 if some failed.

Examples:
  countersign resend 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --why 'address corrected'
  countersign resend --all --state parked --consumer logistics --cause resends_used_up --dry-run
  countersign resend --all --state parked --cause resends_used_up --rate 50 --why 'logistics is back' --yes";

/// What to type.
pub(crate) const CLOSE: &str = "\
No more is done about the messages; a confirm that comes all the same is still recorded.
Exit code 1 if some failed.

Examples:
  countersign close 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --why 'shipped by hand, ticket 4711'
  countersign close --all --state parked --cause rejected --older-than 30d --why 'known bad articles'";

/// What to type.
pub(crate) const NOTE: &str = "\
Shown by countersign status, for whoever looks next.

Example:
  countersign note 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --why 'asked the warehouse, ticket 4711'";

impl Act {
    /// Shows what it is about to do, asks, does it and follows it to its end.
    ///
    /// # Errors
    /// When the callback service does not answer or refuses, or the command line does not say what
    /// is meant.
    pub(crate) async fn run(
        self,
        action: JobAction,
        all_at_once: bool,
        as_json: bool,
    ) -> anyhow::Result<Output> {
        self.means_something()?;
        let mut client = self.callback.client().await?;
        let planned = self.create(&mut client, action, all_at_once, true).await?;
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
                "there is nothing to do: none of them is overdue".to_owned()
            })?;
            return Ok(output.good_if(self.all));
        }
        if !self.yes {
            ask_person::tell(&plan());
            if !ask_person::agrees("Do it?")? {
                return Ok(Output::good("nothing was done").good_if(false));
            }
        }
        // Before there is a job, so that nobody leaves without being told how to look at it.
        let leaving = Leaving::listen()?;
        let created = self.create(&mut client, action, all_at_once, false).await?;
        follow(&mut client, created.job.unwrap_or_default(), leaving).await?.output(as_json)
    }

    fn means_something(&self) -> anyhow::Result<()> {
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
                "say --why, and --who if USER is not set: they are kept for whoever looks next"
            }
            _ if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) => {
                "--rate: use a number above 0"
            }
            _ => return Ok(()),
        };
        Err(UsageError(wrong.to_owned()).into())
    }

    async fn create(
        &self,
        client: &mut Client,
        action: JobAction,
        all_at_once: bool,
        dry_run: bool,
    ) -> anyhow::Result<CreateJobResponse> {
        let request = CreateJobRequest {
            action: action.into(),
            message_ids: self.ids.iter().map(ToString::to_string).collect(),
            filter: self.all.then(|| self.filter.wire()),
            who: self.who.clone(),
            why: self.why.clone(),
            dry_run,
            rate_per_second: self.rate.unwrap_or(0.0),
            all_at_once,
        };
        match client.create_job(self.credentials.call(request)?).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) if status.code() == Code::InvalidArgument => {
                Err(UsageError(status.message().to_owned()).into())
            }
            Err(status) => Err(refused(&status)),
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

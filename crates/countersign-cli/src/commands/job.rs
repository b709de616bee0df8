//! One job: following it to its end, and its words for a person.

use std::io;
use std::time::Duration;

use anyhow::bail;
use countersign_protocol::grpc::{GetJobRequest, Job};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::connect::address::{is_definite, refused};
use crate::connect::callback::Client;
use crate::terminal::ask_person;
use crate::terminal::clock::clock;
use crate::terminal::output::Output;
use crate::terminal::table::count;

/// Often enough for a bar that moves, and rarely enough for the callback service.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A job goes on when the callback service restarts, so following it goes on as well: this long
/// without an answer.
const AWAY_AT_MOST: Duration = Duration::from_secs(120);

/// How following a job ended.
pub(crate) enum Followed {
    /// The job came to its end.
    Ended(Job),
    /// The operator pressed Ctrl-C, and the job goes on.
    Left(Job),
}

/// Waits for Ctrl-C. From when this is made on, Ctrl-C does not end the program.
pub(crate) struct Leaving(Signal);

impl Leaving {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses the signal handler.
    pub(crate) fn listen() -> io::Result<Self> {
        signal(SignalKind::interrupt()).map(Self)
    }
}

/// Waits for the job's end, with a bar on the terminal. Ctrl-C leaves the job running.
///
/// # Errors
/// When the callback service does not answer for [`AWAY_AT_MOST`].
pub(crate) async fn follow(
    client: &mut Client,
    mut job: Job,
    mut leaving: Leaving,
) -> anyhow::Result<Followed> {
    let bar = bar(&job);
    let mut answered = Instant::now();
    while is_running(&job) {
        show(&bar, &job);
        tokio::select! {
            _ = leaving.0.recv() => {
                bar.finish_and_clear();
                return Ok(Followed::Left(job));
            }
            () = sleep(LOOK_EVERY) => {}
        }
        let request = GetJobRequest { job_id: job.job_id.clone() };
        match client.get_job(request).await {
            Ok(answer) => {
                answered = Instant::now();
                job = answer.into_inner().job.unwrap_or(job);
            }
            Err(status) if !is_definite(&status) && answered.elapsed() < AWAY_AT_MOST => {
                bar.set_message("the callback service is away: waiting");
            }
            Err(status) => {
                bar.finish_and_clear();
                bail!("{}; the job goes on: {}", refused(&status), look(&job));
            }
        }
    }
    show(&bar, &job);
    bar.finish_and_clear();
    Ok(Followed::Ended(job))
}

impl Followed {
    /// The job in a sentence; good if it ended and no message failed.
    ///
    /// # Errors
    /// When the job cannot be written as JSON.
    pub(crate) fn output(self, as_json: bool) -> anyhow::Result<Output> {
        match self {
            Self::Ended(job) => {
                let output = Output::json_or_text(as_json, &json(&job)?, || sentence(&job))?;
                Ok(output.good_if(is_good(&job)))
            }
            Self::Left(job) => {
                ask_person::tell(&format!("the job goes on: {}", look(&job)));
                Ok(Output::json_or_text(as_json, &json(&job)?, || sentence(&job))?.good_if(false))
            }
        }
    }
}

/// The job with its action's name.
///
/// # Errors
/// When the job cannot be written as JSON.
pub(crate) fn json(job: &Job) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(job)?;
    value["action"] = job.action().as_str_name().into();
    Ok(value)
}

/// The job's state and counts in a sentence, and the commands that show more.
pub(crate) fn sentence(job: &Job) -> String {
    let mut text = format!(
        "job {} is {}: {} of {} succeeded, {} failed, {} skipped",
        job.job_id,
        job.state,
        count(job.succeeded),
        count(job.items),
        count(job.failed),
        count(job.skipped)
    );
    if job.pending + job.begun > 0 {
        let (pending, begun) = (count(job.pending), count(job.begun));
        text = format!("{text}, {begun} under way, {pending} not begun");
    }
    if !job.reason.is_empty() {
        text = format!("{text}\n  {}", job.reason);
    }
    if job.failed > 0 {
        text = format!("{text}\n  countersign jobs show {} --state failed", job.job_id);
    }
    text
}

/// Who started the job, when and why.
pub(crate) fn origin(job: &Job) -> String {
    let action = job.action().as_str_name().to_lowercase();
    format!("{action} by {} at {}: {}", job.who, clock(job.created_at_ms), job.why)
}

/// Whether the job has not ended.
pub(crate) fn is_running(job: &Job) -> bool {
    job.state == "running"
}

/// Whether no message failed, and the job was neither stopped nor cancelled.
pub(crate) fn is_good(job: &Job) -> bool {
    job.failed == 0 && matches!(job.state.as_str(), "done" | "running")
}

fn look(job: &Job) -> String {
    let id = &job.job_id;
    format!("countersign jobs show {id} --follow, or countersign jobs cancel {id}")
}

/// Drawn on standard error, and only where that is a terminal.
fn bar(job: &Job) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40.green/dim} {human_pos}/{human_len}  {msg}")
        .expect("the template is right, and the same every time")
        .progress_chars("━╸─");
    ProgressBar::new(job.items).with_style(style)
}

fn show(bar: &ProgressBar, job: &Job) {
    bar.set_length(job.items);
    bar.set_position(job.succeeded + job.failed + job.skipped);
    let step = if job.step == 0 {
        String::new()
    } else {
        format!(", canaries: {} of them for now", count(job.step))
    };
    bar.set_message(format!("{} under way, {} failed{step}", count(job.begun), count(job.failed)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            job_id: "7".to_owned(),
            action: 1,
            state: "done".to_owned(),
            items: 5_000,
            succeeded: 5_000,
            ..Job::default()
        }
    }

    #[test]
    fn a_job_is_good_only_when_it_did_all_that_it_could() {
        assert!(is_good(&job()));
        for bad in [
            Job { failed: 1, ..job() },
            Job { state: "stopped".to_owned(), ..job() },
            Job { state: "cancelled".to_owned(), ..job() },
        ] {
            assert!(!is_good(&bad), "{bad:?}");
        }
    }

    #[test]
    fn what_failed_can_be_looked_at() {
        assert_eq!(
            sentence(&job()),
            "job 7 is done: 5,000 of 5,000 succeeded, 0 failed, 0 skipped"
        );
        let stopped = Job {
            state: "stopped".to_owned(),
            reason: "2 of 5 canaries failed".to_owned(),
            succeeded: 3,
            failed: 2,
            pending: 4_995,
            ..job()
        };
        let text = sentence(&stopped);
        assert!(text.contains("4,995 not begun") && text.contains("canaries failed"), "{text}");
        assert!(text.ends_with("countersign jobs show 7 --state failed"), "{text}");
        assert_eq!(json(&job()).unwrap()["action"], "RESEND");
    }
}

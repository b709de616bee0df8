//! `countersign quarantine`: messages that could not be read or stored, straight from the broker.

mod chosen;
mod filter;
mod groups;
mod held;
mod item;
mod replay;
mod table;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use self::chosen::Chosen;
use self::filter::Filter;
use self::held::Held;
use self::item::{Body, Shown};
use self::replay::Replayed;
use self::table::another_run;
use crate::connect::broker::Broker;
use crate::terminal::ask_person;
use crate::terminal::output::Output;
use crate::terminal::page::Page;
use crate::terminal::table::{count, first_of, quantity};

/// The actions on quarantined messages.
#[derive(Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// Shows the messages in quarantine; changes nothing
    #[command(after_help = "\
Examples:
  countersign quarantine list
  countersign quarantine list --reason 'older than the retention' --older-than 1h
  countersign quarantine list --all --json | jq -r '.messages[] | .reason' | sort | uniq -c")]
    List {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        page: Page,
        /// Shows whole bodies; --json always does
        #[arg(long)]
        bodies: bool,
    },
    /// Publishes messages again to where they came from, once their fault is mended
    ///
    /// A message leaves the quarantine when the broker has it where it came from. A replay that is
    /// killed in between leaves the message in both places, which does no harm: confirms and checks
    /// count once. A message that still cannot be read comes back with a new reason.
    #[command(after_help = "\
Examples:
  countersign quarantine replay --reason 'the database refuses it' --dry-run
  countersign quarantine replay --source countersign.confirm.0 --newer-than 2h
  countersign quarantine replay --all")]
    Replay {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Throws messages away for good: exactly those that it shows before it asks
    #[command(after_help = "\
Examples:
  countersign quarantine drop --app-id load-test --dry-run
  countersign quarantine drop --reason 'not a confirm envelope' --older-than 7d
  countersign quarantine drop --id 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --yes")]
    Drop {
        #[command(flatten)]
        chosen: Chosen,
        /// Does not ask before it throws them away
        #[arg(long)]
        yes: bool,
    },
}

/// A list, as JSON.
#[derive(Serialize)]
struct Listed<'a> {
    messages: Vec<&'a Shown>,
    /// How many match, also those that are not listed.
    matching: u64,
}

/// The result of a replay or drop, as JSON.
#[derive(Serialize)]
struct Done<'a> {
    done: u64,
    /// Id and reason of each message that stays.
    not_done: &'a [(String, String)],
    /// How many match too and did not fit in hand.
    left_for_another_run: u64,
    dry_run: bool,
}

impl Quarantine {
    /// Runs the command.
    ///
    /// # Errors
    /// When the broker does not answer, or the command line does not say which messages.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Output> {
        match self {
            Self::List { broker, filter, page, bodies } => {
                let body = if bodies || as_json { Body::Whole } else { Body::Beginning };
                list(Held::gather(&broker, &filter, page.most(), &body).await?, bodies, as_json)
                    .await
            }
            Self::Replay { chosen } => {
                let held = chosen.hold().await?;
                if chosen.dry_run || held.items.is_empty() {
                    return only_look(held, "would be replayed", as_json).await;
                }
                replay(&chosen.broker, held, as_json).await
            }
            Self::Drop { chosen, yes } => {
                let held = chosen.hold().await?;
                if chosen.dry_run || held.items.is_empty() {
                    return only_look(held, "would be dropped", as_json).await;
                }
                throw_away(held, yes, as_json).await
            }
        }
    }
}

async fn list(held: Held, whole_bodies: bool, as_json: bool) -> anyhow::Result<Output> {
    let listed = Listed { matching: held.matching(), messages: held.shown() };
    let output = Output::json_or_text(as_json, &listed, || match (listed.matching, held.seen) {
        (0, 0) => "nothing is in quarantine".to_owned(),
        (0, seen) => none_of(seen),
        (matching, _) => {
            let mut text = table::messages(&listed.messages, whole_bodies);
            if held.beyond > 0 {
                text = format!("{text}\n{}", first_of(listed.messages.len(), Some(matching)));
            }
            text
        }
    });
    held.put_back().await?;
    output
}

async fn only_look(held: Held, would: &str, as_json: bool) -> anyhow::Result<Output> {
    let listed = Listed { matching: held.matching(), messages: held.shown() };
    let output = Output::json_or_text(as_json, &listed, || match held.items.len() {
        0 => none_of(held.seen),
        items => format!("{}\n{} {would}", table::plan(&held), count(items)),
    });
    held.put_back().await?;
    output
}

fn none_of(seen: u64) -> String {
    format!("{} in quarantine, and none matches", quantity(seen, "message"))
}

async fn replay(broker: &Broker, mut held: Held, as_json: bool) -> anyhow::Result<Output> {
    let Replayed { done, left } = replay::all(broker, &mut held.browser, &held.items).await?;
    let beyond = held.beyond;
    held.put_back().await?;
    let result = Done { done, not_done: &left, left_for_another_run: beyond, dry_run: false };
    let output = Output::json_or_text(as_json, &result, || {
        let mut lines = vec![format!(
            "{} replayed. A message that still cannot be read or stored comes back: countersign quarantine list --newer-than 1m",
            count(done)
        )];
        lines.extend(left.iter().map(|(id, why)| format!("  {id} stays: {why}")));
        lines.extend(another_run(beyond));
        lines.join("\n")
    })?;
    Ok(output.good_if(left.is_empty() && beyond == 0))
}

async fn throw_away(mut held: Held, yes: bool, as_json: bool) -> anyhow::Result<Output> {
    if !yes {
        ask_person::tell(&table::plan(&held));
        let question = format!("Throw {} away for good?", quantity(held.items.len(), "message"));
        if !ask_person::agrees(&question)? {
            held.put_back().await?;
            return Ok(Output::good("nothing was dropped").good_if(false));
        }
    }
    for item in &held.items {
        held.browser.take(item.tag).await.context("the rest stays in quarantine")?;
    }
    let (done, beyond) = (u64::try_from(held.items.len())?, held.beyond);
    held.put_back()
        .await
        .context("some dropped messages may be in quarantine still: countersign quarantine list")?;
    let result = Done { done, not_done: &[], left_for_another_run: beyond, dry_run: false };
    let output = Output::json_or_text(as_json, &result, || {
        let lines = std::iter::once(format!("{} dropped", count(done))).chain(another_run(beyond));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(output.good_if(beyond == 0))
}

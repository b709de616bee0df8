//! `countersign quarantine`: what could not be read or stored, straight from the broker.
//!
//! Everything that lies there is read and held un-acked until the command ends: whatever becomes of
//! it, what was not replayed or dropped returns to the queue in its order.

mod item;

mod selection;

mod groups;

mod replay;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use countersign_amqp::{Address, Browser, Connection};
use countersign_protocol::topology;
use serde::Serialize;

use self::item::{Body, Item, Shown};
use self::replay::Replayed;
use self::selection::Selection;
use crate::connect::broker;
use crate::terminal::ask_person;
use crate::terminal::clock::{clock, now_ms};
use crate::terminal::output::{Output, UsageError};
use crate::terminal::table::{Column, Rows, count, first_of};

/// What is done about it.
#[derive(Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// Shows what lies there; nothing changes
    #[command(after_help = "\
Examples:
  countersign quarantine list
  countersign quarantine list --reason 'older than the retention' --older-than 1h
  countersign quarantine list --all --json | jq -r '.messages[] | .reason' | sort | uniq -c")]
    List {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        selection: Selection,
        /// How many are shown at most
        #[arg(long, default_value_t = 100, value_name = "N", conflicts_with = "all")]
        limit: usize,
        /// Shows all of them
        #[arg(long)]
        all: bool,
        /// Shows whole bodies; --json always does
        #[arg(long)]
        bodies: bool,
    },
    /// Publishes messages again to where they came from, once what was wrong is mended
    ///
    /// Each leaves the quarantine when the broker has it elsewhere. Killed in between, it is in both
    /// places, which does no harm: confirms and checks count once. What still cannot be read comes
    /// back with a new reason.
    #[command(after_help = "\
Examples:
  countersign quarantine replay --reason 'the database refuses it' --dry-run
  countersign quarantine replay --source countersign.confirm.0 --newer-than 2h
  countersign quarantine replay --all")]
    Replay {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        selection: Selection,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Only says which they would be
        #[arg(long)]
        dry_run: bool,
    },
    /// Throws messages away for good: exactly those that were shown
    #[command(after_help = "\
Examples:
  countersign quarantine drop --app-id load-test --dry-run
  countersign quarantine drop --reason 'not a confirm envelope' --older-than 7d
  countersign quarantine drop --id 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --yes")]
    Drop {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        selection: Selection,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Only says which they would be
        #[arg(long)]
        dry_run: bool,
        /// Does not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Where the quarantine is.
#[derive(Debug, Args)]
pub(crate) struct Broker {
    /// Where RabbitMQ is
    #[arg(
        long,
        env = "COUNTERSIGN_AMQP_URL",
        hide_env_values = true,
        default_value = "amqp://guest:guest@localhost:5672/%2f",
        value_name = "URL"
    )]
    amqp_url: Address,
}

/// What is in hand.
struct Hand {
    connection: Connection,
    browser: Browser,
    selected: Vec<Item>,
    /// Selected as well, but more than is held at once.
    beyond: u64,
    seen: u64,
}

/// A list as scripts read it.
#[derive(Serialize)]
struct Listed<'a> {
    messages: Vec<&'a Shown>,
    /// How many match, those that are not listed too.
    matching: u64,
}

/// What was done, as scripts read it.
#[derive(Serialize)]
struct Done<'a> {
    done: u64,
    not_done: &'a [(String, String)],
    /// These match too and were not looked at: run it again.
    left_for_another_run: u64,
    dry_run: bool,
}

/// Bodies are held while a person makes up their mind; past that many bytes, another run does the
/// rest.
const MOST_HELD_BYTES: usize = 256 * 1024 * 1024;
/// How many rows show what is about to be done.
const SHOWN: usize = 20;

impl Quarantine {
    /// Does it.
    ///
    /// # Errors
    /// When the broker does not answer, or the command line does not say what is meant.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Output> {
        match self {
            Self::List { broker, selection, limit, all, bodies } => {
                let most = if all { usize::MAX } else { limit };
                list(&broker, &selection, most, bodies, as_json).await
            }
            Self::Replay { broker, selection, all, dry_run } => {
                meant(&selection, all)?;
                let hand = gather(&broker, &selection, usize::MAX, &Body::Beginning).await?;
                replay(&broker.amqp_url, hand, dry_run, as_json).await
            }
            Self::Drop { broker, selection, all, dry_run, yes } => {
                meant(&selection, all)?;
                let hand = gather(&broker, &selection, usize::MAX, &Body::Beginning).await?;
                throw_away(hand, dry_run, yes, as_json).await
            }
        }
    }
}

fn meant(selection: &Selection, all: bool) -> anyhow::Result<()> {
    let wrong = match (selection.is_empty(), all) {
        (true, false) => {
            "say which ones: by --reason, --source, --app-id, --older-than, --newer-than or --id, or --all"
        }
        (false, true) => "--all means all of them: leave it out, or the other flags",
        _ => return Ok(()),
    };
    Err(UsageError(wrong.to_owned()).into())
}

async fn list(
    broker: &Broker,
    selection: &Selection,
    most: usize,
    bodies: bool,
    as_json: bool,
) -> anyhow::Result<Output> {
    let body = if bodies || as_json { Body::Whole } else { Body::Beginning };
    let hand = gather(broker, selection, most, &body).await?;
    let Hand { selected, beyond, seen, .. } = &hand;
    let shown: Vec<&Shown> = selected.iter().map(|item| &item.shown).collect();
    let matching = u64::try_from(shown.len())? + beyond;
    let listed = Listed { matching, messages: shown };
    let output = Output::json_or_text(as_json, &listed, || match (matching, *seen) {
        (0, 0) => "nothing is in quarantine".to_owned(),
        (0, seen) => format!("none of the {} in quarantine is meant", count(seen)),
        _ => {
            let mut text = table(&listed.messages, bodies);
            if *beyond > 0 {
                text = format!("{text}\n{}", first_of(listed.messages.len(), Some(matching)));
            }
            text
        }
    });
    put_back(hand).await?;
    output
}

async fn replay(
    address: &Address,
    mut hand: Hand,
    dry_run: bool,
    as_json: bool,
) -> anyhow::Result<Output> {
    if dry_run || hand.selected.is_empty() {
        return only_look(hand, "would be replayed", as_json).await;
    }
    let Replayed { done, left } = replay::all(address, &mut hand.browser, &hand.selected).await?;
    let beyond = hand.beyond;
    put_back(hand).await?;
    let result = Done { done, not_done: &left, left_for_another_run: beyond, dry_run };
    let output = Output::json_or_text(as_json, &result, || {
        let mut lines = vec![format!(
            "{} replayed. What still cannot be taken comes back: countersign quarantine list --newer-than 1m",
            count(done)
        )];
        lines.extend(left.iter().map(|(id, why)| format!("  {id} stays: {why}")));
        lines.extend(another_run(beyond));
        lines.join("\n")
    })?;
    Ok(output.good_if(left.is_empty() && beyond == 0))
}

async fn throw_away(
    mut hand: Hand,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> anyhow::Result<Output> {
    if dry_run || hand.selected.is_empty() {
        return only_look(hand, "would be dropped", as_json).await;
    }
    if !yes {
        ask_person::tell(&what(&hand));
        let question = format!("Throw these {} away for good?", count(hand.selected.len()));
        if !ask_person::agrees(&question)? {
            put_back(hand).await?;
            return Ok(Output::good("nothing was dropped").good_if(false));
        }
    }
    for item in &hand.selected {
        hand.browser.take(item.tag).await.context("the rest stays in quarantine")?;
    }
    let (done, beyond) = (u64::try_from(hand.selected.len())?, hand.beyond);
    put_back(hand).await.context("some of what was dropped may be in quarantine still: list it")?;
    let result = Done { done, not_done: &[], left_for_another_run: beyond, dry_run };
    let output = Output::json_or_text(as_json, &result, || {
        let lines = std::iter::once(format!("{} dropped", count(done))).chain(another_run(beyond));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(output.good_if(beyond == 0))
}

async fn only_look(hand: Hand, would: &str, as_json: bool) -> anyhow::Result<Output> {
    let shown: Vec<&Shown> = hand.selected.iter().map(|item| &item.shown).collect();
    let matching = u64::try_from(shown.len())? + hand.beyond;
    let listed = Listed { matching, messages: shown };
    let output = Output::json_or_text(as_json, &listed, || match hand.selected.len() {
        0 => format!("none of the {} in quarantine is meant", count(hand.seen)),
        selected => format!("{}\n{} {would}", what(&hand), count(selected)),
    });
    put_back(hand).await?;
    output
}

/// What is about to be done, in groups and the first of it.
fn what(hand: &Hand) -> String {
    let shown: Vec<&Shown> = hand.selected.iter().map(|item| &item.shown).collect();
    let first = &shown[..shown.len().min(SHOWN)];
    let mut text = format!("{}\n{}", groups::table(&shown), table(first, false));
    if shown.len() > SHOWN {
        text = format!(
            "{text}\nthe first {SHOWN} of {}; countersign quarantine list shows them all",
            count(shown.len())
        );
    }
    if let Some(line) = another_run(hand.beyond) {
        text = format!("{text}\n{line}");
    }
    text
}

fn another_run(beyond: u64) -> Option<String> {
    (beyond > 0).then(|| {
        format!("{} more are meant than are held at once: run it again for them", count(beyond))
    })
}

/// Reads all of the quarantine, and holds what is selected.
async fn gather(
    broker: &Broker,
    selection: &Selection,
    most: usize,
    body: &Body,
) -> anyhow::Result<Hand> {
    let now = now_ms();
    let connection = broker::connect(&broker.amqp_url, "countersign quarantine").await?;
    let queue = topology::QUARANTINE;
    let browser = Browser::open(&connection, queue).await.with_context(|| {
        format!("{queue} cannot be read; the callback service makes it: has it ever been connected to this vhost?")
    })?;
    if browser.other_readers() > 0 {
        ask_person::tell(&format!(
            "others that are reading {queue}: {}; what they hold is not seen here",
            browser.other_readers()
        ));
    }
    let mut hand = Hand { connection, browser, selected: Vec::new(), beyond: 0, seen: 0 };
    let mut bytes = 0;
    while let Some(browsed) = hand.browser.next().await? {
        hand.seen += 1;
        let item = Item::read(browsed, body);
        if !selection.holds(&item.shown, now) {
            continue;
        }
        bytes += item.shown.bytes;
        if hand.selected.len() < most && (bytes <= MOST_HELD_BYTES || hand.selected.is_empty()) {
            hand.selected.push(item);
        } else {
            hand.beyond += 1;
        }
    }
    Ok(hand)
}

/// Returns what was not taken, and hangs up.
async fn put_back(hand: Hand) -> anyhow::Result<()> {
    hand.browser.close().await?;
    hand.connection.close().await;
    Ok(())
}

fn table(shown: &[&Shown], bodies: bool) -> String {
    use Column::{Number, Text};
    let mut rows = Rows::new(&[
        Text("put aside"),
        Text("message_id"),
        Text("source"),
        Text("app_id"),
        Text("reason"),
        Number("bytes"),
        Text("body"),
    ]);
    for item in shown {
        rows.add([
            if item.quarantined_at_ms > 0 { clock(item.quarantined_at_ms) } else { "-".to_owned() },
            item.message_id.clone(),
            item.source.clone(),
            item.app_id.clone(),
            item.reason.clone(),
            count(item.bytes),
            if bodies { item.body.clone() } else { short(&item.body) },
        ]);
    }
    rows.print()
}

/// As much of a body as fits into a row.
fn short(body: &str) -> String {
    const MOST: usize = 40;
    let mut text: String = body.chars().take(MOST).collect();
    if text.len() < body.len() && !text.ends_with('…') {
        text.push('…');
    }
    text
}

//! Quarantined messages as tables.

use super::groups;
use super::held::Held;
use super::item::Shown;
use crate::terminal::clock::clock;
use crate::terminal::table::{Column, Rows, count, quantity};

/// Rows below the groups before something is done: enough to recognise the messages.
const EXAMPLES: usize = 20;
/// Characters of a body in a row: the other columns need the rest of the terminal.
const BODY: usize = 40;

/// One row for each message.
pub(crate) fn messages(shown: &[&Shown], whole_bodies: bool) -> String {
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
            if whole_bodies { item.body.clone() } else { short(&item.body) },
        ]);
    }
    rows.print()
}

/// The messages that a command is about to take: in groups, and the first of them.
pub(crate) fn plan(held: &Held) -> String {
    let shown = held.shown();
    let first = &shown[..shown.len().min(EXAMPLES)];
    let mut text = format!("{}\n{}", groups::table(&shown), messages(first, false));
    if shown.len() > EXAMPLES {
        text = format!(
            "{text}\nthe first {EXAMPLES} of {}; countersign quarantine list shows them all",
            count(shown.len())
        );
    }
    if let Some(line) = another_run(held.beyond) {
        text = format!("{text}\n{line}");
    }
    text
}

/// The line for messages that match and did not fit in hand.
pub(crate) fn another_run(beyond: u64) -> Option<String> {
    (beyond > 0).then(|| {
        format!(
            "{} beyond those that fit in hand at once: run the command again for the rest",
            quantity(beyond, "message")
        )
    })
}

fn short(body: &str) -> String {
    let mut text: String = body.chars().take(BODY).collect();
    if text.len() < body.len() && !text.ends_with('…') {
        text.push('…');
    }
    text
}

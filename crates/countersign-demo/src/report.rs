//! The result: as a table for people, as JSON for programs, and as a verdict.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use console::style;
use countersign_testbed::Lost;
use indicatif::HumanCount;
use serde::Serialize;

use crate::director::Destroyed;
use crate::settling::Settled;
use crate::stage::CHECK_DELAY_S;

/// How many lost orders the report names.
const NAMED: usize = 10;

/// The demo's findings.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) settled: Settled,
    pub(crate) destroyed: Destroyed,
    /// How many orders the demo was told to place.
    pub(crate) orders: u64,
    pub(crate) seed: u64,
    pub(crate) took: Duration,
}

/// The keys that scripts rely on. All plain numbers.
#[derive(Debug, Serialize)]
struct Json {
    placed: u64,
    shipped: u64,
    doubled: u64,
    destroyed: u64,
    destroyed_messages: u64,
    destroyed_confirms: u64,
    resends: u64,
    duplicates_suppressed: u64,
    parked: u64,
    lost: u64,
    /// Shipped, though never committed.
    unordered: u64,
    /// 1 if a message or row was still on its way at the deadline.
    unsettled: u64,
    seconds: f64,
    seed: u64,
}

impl Report {
    /// Whether the promise was kept.
    pub(crate) fn is_good(&self) -> bool {
        let Settled { audit, unrest } = &self.settled;
        audit.failures().is_empty() && unrest.is_rest()
    }

    /// The report as one line of JSON.
    pub(crate) fn json(&self) -> String {
        let Settled { audit, unrest } = &self.settled;
        let (messages, confirms) = (self.destroyed_messages(), self.destroyed_confirms());
        let json = Json {
            placed: audit.placed,
            shipped: audit.shipped,
            doubled: audit.doubled_effects(),
            destroyed: messages + confirms,
            destroyed_messages: messages,
            destroyed_confirms: confirms,
            resends: audit.resends,
            duplicates_suppressed: audit.duplicates_suppressed,
            parked: audit.parked + audit.withdrawn,
            lost: count(audit.lost.len()),
            unordered: count(audit.unordered.len()),
            unsettled: u64::from(!unrest.is_rest()),
            seconds: (self.took.as_secs_f64() * 10.0).round() / 10.0,
            seed: self.seed,
        };
        serde_json::to_string(&json).expect("numbers can be written as JSON")
    }

    /// The table; every row says where its figure comes from.
    pub(crate) fn table(&self) -> String {
        let audit = &self.settled.audit;
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_FULL_CONDENSED.with_rounded_corners())
            .set_content_arrangement(ContentArrangement::Disabled);
        let mut row = |what: &str, n: u64, means: &str| {
            let number = Cell::new(HumanCount(n)).set_alignment(CellAlignment::Right);
            table.add_row([Cell::new(what), number, Cell::new(means)]);
        };
        row("placed", audit.placed, "orders committed in the orders database");
        row("shipped", audit.shipped, "of them with a shipment in the logistics database");
        row("doubled effects", audit.doubled_effects(), "shipments beyond the first of an order");
        row(
            "destroyed messages",
            self.destroyed_messages(),
            "purged from logistics.orders before they had taken effect",
        );
        row(
            "destroyed confirms",
            self.destroyed_confirms(),
            "purged from countersign.confirm.0 before they were recorded",
        );
        row(
            "resends asked",
            audit.resends,
            &format!("by callback: no confirm when the check came due, after {CHECK_DELAY_S} s"),
        );
        row(
            "duplicates suppressed",
            audit.duplicates_suppressed,
            "deliveries of what had taken effect: only confirmed again",
        );
        row(
            "parked",
            audit.parked + audit.withdrawn,
            "given up, with a reason that a person can read",
        );
        row("lost", count(audit.lost.len()), "committed, but neither shipped nor parked");
        if !audit.unordered.is_empty() {
            row("unordered", count(audit.unordered.len()), "shipped, but never committed");
        }
        table.to_string()
    }

    /// The verdict in a sentence; each fault in a line of its own.
    pub(crate) fn verdict(&self) -> String {
        let Settled { audit, unrest } = &self.settled;
        if self.is_good() {
            let once = match audit.parked + audit.withdrawn {
                0 => "took effect exactly once".to_owned(),
                parked => format!("took effect exactly once or is among the {parked} parked"),
            };
            let verdict = format!(
                "Nothing lost, nothing doubled: each of the {} committed orders {once}.",
                HumanCount(audit.placed)
            );
            return style(verdict).green().bold().to_string();
        }
        let mut lines = Vec::new();
        if !audit.lost.is_empty() {
            lines.push(format!("Lost orders: {}.", audit.lost.len()));
            lines.extend(
                audit.lost.iter().take(NAMED).map(|lost| format!("  {}", self.story_of(lost))),
            );
            if audit.lost.len() > NAMED {
                lines.push(format!("  … and {} more", audit.lost.len() - NAMED));
            }
        }
        if !audit.doubled.is_empty() {
            lines.push(format!("Doubled effects: {}.", audit.doubled_effects()));
        }
        if !audit.unordered.is_empty() {
            lines.push(format!("Orders shipped and never committed: {}.", audit.unordered.len()));
        }
        if !unrest.is_rest() {
            lines.push(format!("Not everything came to rest in time: {unrest}."));
        }
        lines.push(format!(
            "To look at it: ./demo --orders {} --seed {} --keep",
            self.orders, self.seed
        ));
        style(lines.join("\n")).red().to_string()
    }

    fn story_of(&self, lost: &Lost) -> String {
        let Lost { order, overdue } = lost;
        let ledger = match overdue {
            None => "the ledger does not know it".to_owned(),
            Some(overdue) => format!(
                "the ledger says {} after {} resends: {}",
                overdue.state, overdue.resends, overdue.reason
            ),
        };
        let harm = if self.destroyed.messages.contains(&order.message_id) {
            "its message was destroyed"
        } else {
            "its message was not among those destroyed"
        };
        format!("order {}, message {}: {harm}; {ledger}", order.order_id, order.message_id)
    }

    fn destroyed_messages(&self) -> u64 {
        count(self.destroyed.messages.len())
    }

    fn destroyed_confirms(&self) -> u64 {
        count(self.destroyed.confirms.len())
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use countersign_testbed::{Audit, Order};
    use uuid::Uuid;

    use super::*;
    use crate::settling::Unrest;

    fn report(audit: Audit) -> Report {
        let destroyed = Destroyed {
            messages: vec![Uuid::from_u128(1), Uuid::from_u128(2)],
            confirms: vec![Uuid::from_u128(3)],
        };
        let settled = Settled { audit, unrest: Unrest::default() };
        Report { settled, destroyed, orders: 3_000, seed: 7, took: Duration::from_millis(51_234) }
    }

    fn good() -> Audit {
        Audit {
            placed: 3_000,
            shipped: 3_000,
            resends: 4,
            duplicates_suppressed: 5,
            ..Audit::default()
        }
    }

    fn lost() -> Lost {
        let order = Order { order_id: Uuid::from_u128(10), message_id: Uuid::from_u128(2) };
        Lost { order, overdue: None }
    }

    #[test]
    fn the_keys_of_the_json_are_those_that_scripts_hold_on_to() {
        assert_eq!(
            report(good()).json(),
            r#"{"placed":3000,"shipped":3000,"doubled":0,"destroyed":3,"destroyed_messages":2,"destroyed_confirms":1,"resends":4,"duplicates_suppressed":5,"parked":0,"lost":0,"unordered":0,"unsettled":0,"seconds":51.2,"seed":7}"#
        );
    }

    #[test]
    fn it_is_good_only_when_nothing_is_lost_doubled_or_shipped_without_an_order() {
        assert!(report(good()).is_good());
        for bad in [
            Audit { lost: vec![lost()], ..good() },
            Audit { doubled: vec![(Uuid::from_u128(11), 2)], ..good() },
            Audit { unordered: vec![Uuid::from_u128(12)], ..good() },
        ] {
            assert!(!report(bad.clone()).is_good(), "{bad:?}");
        }
    }

    #[test]
    fn a_lost_order_is_named_with_what_is_known_of_it() {
        let verdict = report(Audit { lost: vec![lost()], ..good() }).verdict();
        let verdict = console::strip_ansi_codes(&verdict);
        assert!(verdict.starts_with("Lost orders: 1.\n"), "{verdict}");
        assert!(
            verdict.contains("its message was destroyed; the ledger does not know it"),
            "{verdict}"
        );
    }
}

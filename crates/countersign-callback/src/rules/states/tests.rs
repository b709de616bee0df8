//! The table compared with every place that has to agree with it.

use std::fmt::Write as _;

use strum::VariantArray as _;

use super::*;

const DOCS: &str = include_str!("../../../../../docs/states.md");
const PROTO: &str = include_str!("../../../../../proto/countersign/v1/callback.proto");
const SCHEMA: &str = include_str!("../../../../../migrations/callback/0001_ledger.sql");

fn words(states: &[StateName]) -> Vec<&'static str> {
    states.iter().map(|state| (*state).into()).collect()
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort_unstable();
    all
}

/// The words in single quotes of the constraint of this name.
fn in_constraint(name: &str) -> Vec<&'static str> {
    let (_, from) = SCHEMA.split_once(&format!("CONSTRAINT {name} CHECK (")).unwrap();
    let constraint = from.split("CONSTRAINT ").next().unwrap();
    let constraint = constraint.split("\n);").next().unwrap().split("\n) ").next().unwrap();
    constraint.split('\'').skip(1).step_by(2).collect()
}

#[test]
fn the_page_shows_the_table_of_states() {
    let mut table = String::from(
        "| state | meaning | open | unresolved | heeds consumers | closed |\n|---|---|---|---|---|---|\n",
    );
    for state in StateName::VARIANTS {
        let Facts { open, unresolved, heeds_consumers, closed, meaning } = state.facts();
        let [open, unresolved, heeds, closed] =
            [open, unresolved, heeds_consumers, closed].map(|fact| if fact { "yes" } else { "–" });
        writeln!(table, "| `{state}` | {meaning} | {open} | {unresolved} | {heeds} | {closed} |")
            .unwrap();
    }
    assert!(DOCS.contains(&table), "docs/states.md lacks:\n{table}");
}

#[test]
fn the_page_shows_the_table_of_steps() {
    let mut table = String::from("| from | to | causes |\n|---|---|---|\n");
    for Step { from, to, causes } in STEPS {
        let from = from.map_or_else(|| "(none)".to_owned(), |from| format!("`{from}`"));
        let causes: Vec<String> = causes.iter().map(|cause| format!("`{cause}`")).collect();
        writeln!(table, "| {from} | `{to}` | {} |", causes.join(", ")).unwrap();
    }
    assert!(DOCS.contains(&table), "docs/states.md lacks:\n{table}");
}

#[test]
fn the_picture_has_every_step() {
    let arrow = |step: &Step| {
        let from = step.from.map_or_else(|| "[*]".to_owned(), |from| from.to_string());
        format!("    {from} --> {}", step.to)
    };
    let (_, picture) = DOCS.split_once("stateDiagram-v2\n").unwrap();
    let (picture, _) = picture.split_once("```").unwrap();
    let drawn = picture.lines().filter(|line| line.contains("-->"));
    let drawn: Vec<String> =
        drawn.map(|line| line.split(" : ").next().unwrap().to_owned()).collect();
    assert_eq!(sorted(drawn), sorted(STEPS.iter().map(arrow).collect()));
}

#[test]
fn the_api_names_every_state() {
    let (comment, _) = PROTO.split_once("\n  string state = 2;").unwrap();
    let (_, list) = comment.rsplit_once("// One of:\n").unwrap();
    let lines = list.lines().filter_map(|line| line.trim().strip_prefix("//   "));
    // A line that goes on with the one before is indented further.
    let firsts = lines.filter(|line| !line.starts_with(' '));
    let named: Vec<&str> = firsts.map(|line| line.split_once(' ').unwrap().0).collect();
    let mut known = words(StateName::VARIANTS);
    // No state of a row: what the API says of a message without one.
    known.push("unknown");
    assert_eq!(sorted(named), sorted(known));
}

#[test]
fn the_schema_knows_the_same_states_and_what_belongs_to_them() {
    let of = |are: fn(Facts) -> bool| words(&StateName::all_that(are));
    assert_eq!(in_constraint("overdue_state"), words(StateName::VARIANTS));
    assert_eq!(in_constraint("overdue_due_if_open"), of(|are| are.open));
    assert_eq!(in_constraint("overdue_closed_at_if_closed"), of(|are| are.closed));
    for state in StateName::VARIANTS {
        let whole = state.with(Some(UnixMillis::EPOCH), Some(Uuid::nil())).unwrap();
        assert_eq!(whole.name(), *state);
        assert_eq!(whole.due().is_some(), state.facts().open, "{state}");
        let leased: &str = StateName::Asking.into();
        assert_eq!(
            whole.lease().is_some(),
            in_constraint("overdue_lease_if_asking") == [leased] && *state == StateName::Asking
        );
    }
}

#[test]
fn the_schema_allows_the_same_steps() {
    let pairs = in_constraint("overdue_event_transition");
    let (empty, pairs) = pairs.split_first().unwrap();
    assert_eq!(*empty, "", "no state before stands as an empty text");
    let pairs: Vec<(&str, &str)> = pairs.chunks(2).map(|pair| (pair[0], pair[1])).collect();
    let step = |step: &Step| (step.from.map_or("", <&str>::from), <&str>::from(step.to));
    assert_eq!(sorted(pairs), sorted(STEPS.iter().map(step).collect()));
}

#[test]
fn every_cause_leads_somewhere() {
    for cause in Cause::VARIANTS {
        assert!(STEPS.iter().any(|step| step.causes.contains(cause)), "{cause}");
    }
}

//! The walls of the house, held against its source: which room knows which library, which room
//! imports which, and how long a file is.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read is a failure of the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of this crate, and the rooms that each may import. Every arrow leads to a line further up.
const ARROWS: [(&str, &[&str]); 6] = [
    ("rules", &[]),
    ("ledger", &["rules"]),
    ("watch", &["rules", "ledger"]),
    ("heal", &["rules", "ledger", "watch"]),
    // A check that comes due is counted for its upstream's budget.
    ("intake", &["rules", "ledger", "heal"]),
    ("api", &["rules", "ledger", "watch", "heal"]),
];

/// What starts the rooms: no room imports it.
const ABOVE_ALL_ROOMS: [&str; 2] = ["service", "settings"];

/// What a room must not name, and why.
const FORBIDDEN: [(&str, &[&str], &str); 2] = [
    ("rules", &["sqlx", "tonic", "grpc"], "a rule knows no database and no network"),
    ("ledger", &["tonic", "grpc"], "the ledger gives and takes plain values"),
];

/// The most lines of a file, unit tests apart: as much as a newcomer reads in one sitting.
const MOST_LINES: usize = 430;

#[test]
fn no_room_names_what_it_must_not_know() {
    let mut named = Vec::new();
    for (room, words, why) in FORBIDDEN {
        for (file, code) in files_of(&source().join(room)) {
            for word in words.iter().filter(|word| names(&code, word)) {
                named.push(format!("{} names {word}: {why}", file.display()));
            }
        }
    }
    assert!(named.is_empty(), "{}", named.join("\n"));
}

/// A rule is told the time, and everything else that it needs. Unit tests may take a moment from a clock.
#[test]
fn a_rule_reads_no_clock_no_environment_and_no_chance() {
    const NAMES: [&str; 5] = ["SystemTime", "OffsetDateTime", "env", "fastrand", "new_v4"];
    let mut read = Vec::new();
    for (file, code) in files_of(&source().join("rules")) {
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let is_of_tests = file.ends_with("tests.rs") || file.ends_with("fixture.rs");
        if !is_of_tests && (code.contains("::now") || NAMES.iter().any(|name| names(code, name))) {
            read.push(file.display().to_string());
        }
    }
    assert!(read.is_empty(), "a decision would not be the same twice:\n{}", read.join("\n"));
}

#[test]
fn rooms_import_each_other_one_way() {
    let mut wrong = Vec::new();
    let rooms: BTreeSet<String> = fs::read_dir(source())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<String> = ARROWS.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(rooms, known, "ARROWS says of each room which rooms it may import");
    for (room, allowed) in ARROWS {
        for (file, code) in files_of(&source().join(room)) {
            for other in imported(&code) {
                let is_room = rooms.contains(&other) && other != room;
                let may_not = is_room && !allowed.contains(&other.as_str());
                if may_not || ABOVE_ALL_ROOMS.contains(&other.as_str()) {
                    wrong.push(format!("{}: {room} imports {other}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_arrow_leads_to_a_room_further_up() {
    for (position, (room, allowed)) in ARROWS.iter().enumerate() {
        for other in *allowed {
            let further_up = ARROWS[..position].iter().any(|(above, _)| above == other);
            assert!(further_up, "{room} → {other} would allow a circle");
        }
    }
}

#[test]
fn only_the_amqp_crate_names_lapin() {
    let mut wrong = Vec::new();
    for folder in code_folders() {
        if folder.starts_with(workspace().join("crates/countersign-amqp")) {
            continue;
        }
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        if manifest.lines().any(|line| line.starts_with("lapin")) {
            wrong.push(folder.join("Cargo.toml").display().to_string());
        }
        for (file, code) in files_of(&folder) {
            // Between quotes it is a target of the log, such as `lapin::returned_messages`.
            if code.split('"').step_by(2).any(|code| code.contains("lapin::")) {
                wrong.push(file.display().to_string());
            }
        }
    }
    let why = "its delivery tags have to be kept right in one place";
    assert!(wrong.is_empty(), "lapin is named outside of countersign-amqp ({why}): {wrong:?}");
}

/// The words of `StateName`, `JobState` and `ItemState`; a migration has the same list.
const STATES: [&str; 17] = [
    "waiting",
    "asking",
    "parked",
    "never_committed",
    "confirmed",
    "withdrawn",
    "conflict",
    "closed_by_hand",
    "running",
    "done",
    "cancelled",
    "stopped",
    "pending",
    "begun",
    "succeeded",
    "failed",
    "skipped",
];

#[test]
fn no_sql_of_the_ledger_spells_a_state() {
    let spelled: Vec<String> = files_of(&source().join("ledger"))
        .into_iter()
        .flat_map(|(path, code)| {
            // A partial index wants a constant there.
            let allowed = match path.file_name().and_then(|name| name.to_str()) {
                Some("transitions.rs") => "begun",
                Some("budget.rs") => "asking",
                _ => "",
            };
            let words = STATES
                .into_iter()
                .filter(move |word| *word != allowed && code.contains(&format!("'{word}'")));
            words.map(move |word| format!("{}: '{word}'", path.display()))
        })
        .collect();
    assert!(spelled.is_empty(), "bind the state instead:\n{}", spelled.join("\n"));
}

/// A call to a database ends, whatever becomes of the server, if it goes by `Database` or `Transaction`
/// of countersign-postgres. Code of users gets the connection itself, at three doors.
#[test]
fn only_the_bounded_ways_lead_to_the_database() {
    const DOORS: [&str; 3] = ["effect.rs", "look_up.rs", "enlist.rs"];
    let mut unbounded = Vec::new();
    for name in ["countersign-callback", "countersign-producer", "countersign-consumer"] {
        for (path, code) in files_of(&workspace().join("crates").join(name).join("src")) {
            let is_door = DOORS.iter().any(|door| path.ends_with(door));
            let asks = [".execute(", ".fetch_", "raw_sql("].iter().any(|call| code.contains(call));
            let by_pool = ["pool.acquire", "pool.begin"];
            let by_pool = by_pool.iter().any(|call| code.contains(call));
            if (code.contains("for_user(") && !is_door)
                || (names(&code, "PgConnection") && asks)
                || by_pool
            {
                unbounded.push(path.display().to_string());
            }
        }
    }
    assert!(unbounded.is_empty(), "calls without a limit:\n{}", unbounded.join("\n"));
}

/// Without the bounds of its ids a statement searches every partition: 4.6 ms instead of 0.3 for 500 ids over
/// 30 of them. One id is its own bound.
#[test]
fn every_statement_over_partitions_carries_the_bounds_of_its_ids() {
    const BOUNDS: [&str; 2] = ["message_id BETWEEN", "message_id > $1 AND message_id <= $2"];
    let tables = partitioned();
    assert!(tables.len() >= 5, "the migrations make these tables: {tables:?}");
    let (mut unbounded, mut seen) = (Vec::new(), BTreeSet::new());
    for (path, code) in statements() {
        for (table, rest) in read_by(&code, &tables) {
            let ends = ["\"", "UNION", "EXCEPT", "INTERSECT"];
            let end = ends.iter().filter_map(|end| rest.find(end)).min().unwrap_or(rest.len());
            let part = &rest[..end];
            let is_one = part.split("message_id = ").skip(1).any(|id| !id.starts_with("ANY"));
            if !is_one && !BOUNDS.iter().any(|bounds| part.contains(bounds)) {
                unbounded.push(format!("{}: {table}{part}", path.display()));
            }
            seen.insert(table.to_owned());
        }
    }
    assert_eq!(seen, tables, "each table is read somewhere");
    assert!(unbounded.is_empty(), "statements without bounds:\n{}", unbounded.join("\n"));
}

#[test]
fn no_partition_is_the_default_and_no_confirm_is_deleted() {
    let mut wrong = Vec::new();
    for (path, text) in statements().into_iter().chain(migrations()) {
        let words: Vec<&str> =
            text.split_whitespace().map(|word| word.trim_matches(['"', ';'])).collect();
        let is = |at: &[&str], wanted: &[&str]| {
            at.iter().zip(wanted).all(|(word, wanted)| *wanted == "_" || word == wanted)
        };
        let finds = |wanted: &[&str]| words.windows(wanted.len()).any(|at| is(at, wanted));
        if finds(&["PARTITION", "OF", "_", "DEFAULT"])
            || finds(&["ATTACH", "PARTITION", "_", "DEFAULT"])
            || finds(&["DELETE", "FROM", "confirmation"])
        {
            wrong.push(path.display().to_string());
        }
    }
    assert!(
        wrong.is_empty(),
        "a DEFAULT partition, or a DELETE of confirms:\n{}",
        wrong.join("\n")
    );
}

/// Two transactions that lock the same rows in different orders wait for each other.
#[test]
fn rows_are_locked_in_the_order_of_their_keys_or_skipped() {
    let mut unordered = Vec::new();
    for (path, code) in statements() {
        for (at, _) in code.match_indices("FOR UPDATE") {
            let (before, after) = code.split_at(at);
            let is_ordered = before.rsplit("FROM ").next().unwrap().contains("ORDER BY");
            if !is_ordered && !after.starts_with("FOR UPDATE SKIP LOCKED") {
                unordered.push(path.display().to_string());
            }
        }
    }
    assert!(unordered.is_empty(), "rows are locked in any order:\n{}", unordered.join("\n"));
}

#[test]
fn no_file_is_longer_than_one_sitting() {
    let mut longer = Vec::new();
    for folder in code_folders() {
        for (file, _) in files_of(&folder) {
            let text = fs::read_to_string(&file).unwrap();
            // Unit tests stand at the end of a file, or in a file of their own.
            let lines = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().count();
            let unit_tests = file.ends_with("tests.rs");
            if lines > MOST_LINES && !unit_tests {
                longer.push(format!("{}: {lines}", file.display()));
            }
        }
    }
    assert!(longer.is_empty(), "more than {MOST_LINES} lines:\n{}", longer.join("\n"));
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The code of the crates with statements that run against partitions.
fn statements() -> Vec<(PathBuf, String)> {
    let parties = ["callback", "producer", "consumer", "postgres"];
    let source =
        |name: &str| workspace().join("crates").join(format!("countersign-{name}")).join("src");
    parties.into_iter().flat_map(|name| files_of(&source(name))).collect()
}

fn migrations() -> Vec<(PathBuf, String)> {
    let parties = fs::read_dir(workspace().join("migrations")).unwrap();
    let files = parties.flat_map(|party| fs::read_dir(party.unwrap().path()).unwrap());
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    files.map(|file| read(file.unwrap().path())).collect()
}

/// The tables that the migrations partition by their ids.
fn partitioned() -> BTreeSet<String> {
    let mut tables = BTreeSet::new();
    for (_, text) in migrations() {
        for table in text.split("CREATE TABLE ").skip(1) {
            if table.split(';').next().unwrap().contains("PARTITION BY RANGE (message_id)") {
                tables.extend(table.split_whitespace().next().map(str::to_owned));
            }
        }
    }
    tables
}

/// Where the code reads or changes rows of one of these tables: which, and what follows.
fn read_by<'a>(code: &'a str, tables: &'a BTreeSet<String>) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for verb in ["FROM ", "JOIN ", "UPDATE "] {
        for (at, _) in code.match_indices(verb) {
            let rest = &code[at + verb.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_.".contains(c));
            let (table, rest) = rest.split_at(end.unwrap_or(rest.len()));
            found.extend(tables.get(table).map(|table| (table.as_str(), rest)));
        }
    }
    found
}

/// The folder of each package of the workspace.
fn code_folders() -> Vec<PathBuf> {
    let crates = fs::read_dir(workspace().join("crates")).unwrap();
    let mut folders: Vec<PathBuf> = crates.map(|entry| entry.unwrap().path()).collect();
    folders.push(workspace().join("tests"));
    folders
}

/// The Rust files in a folder and in all folders of it, each with its code without comments. This
/// file names everything, and is left out.
fn files_of(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_of(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests/rooms.rs")
        {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = code.collect::<Vec<_>>().join("\n");
            files.push((path, code));
        }
    }
    files
}

/// Whether a word stands in the code by itself.
fn names(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|other| other == word)
}

/// The modules that stand behind `crate::`, as in `crate::rules::job` or `crate::{ledger, upkeep}`.
fn imported(code: &str) -> BTreeSet<String> {
    let mut imported = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let several = path.strip_prefix('{').and_then(|path| path.split('}').next());
        for path in several.unwrap_or(path).split(',').take(if several.is_some() { 99 } else { 1 })
        {
            let name = path.trim().split(|c: char| !c.is_ascii_lowercase() && c != '_').next();
            imported.extend(name.filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
    imported
}

//! The plans of the statements that run in loops: no filter that removes rows, no scan that grows.
//!
//! Postgres explains every statement that the service runs, with the plan that it really used
//! (`auto_explain`), to the service's own connections, as a notice. The ledger is full meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::JobAction;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::eventually;
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::acting::{TOKEN, create, request};
use crate::stage::Stage;
use crate::upstream::{Upstream, say};

/// How many rows each table holds that grows: far more than a statement in a loop may read.
const FILLED: u64 = 20_000;

/// How many rows one step of a plan may read. A batch of 100 checks reads a few hundred.
const MOST_ROWS: u64 = 2_000;

/// How many rows a filter may remove. The rows that one test makes are that few.
const MOST_REMOVED: u64 = 100;

/// A full ledger is slow to fill, and a plan is written for every statement.
const LONG: Duration = Duration::from_secs(120);

/// The statements that the test waits for, each in the state of the ledger that made it slow once.
const IN_LOOPS: [&str; 24] = [
    "next_due",
    "take_due",
    "paces",
    "lock_paces",
    "store_paces",
    "markers",
    "watermark",
    "make_markers",
    "give_markers_up",
    "markers_returned",
    "recorded",
    "concerned",
    "unconfirmed",
    "differing",
    "note_overdue",
    "rolled_back",
    "take",
    "write",
    "confirm",
    "progress",
    "depths",
    "open_jobs",
    "next_items",
    "forgotten",
];

/// Statements that may read more, each with the reason.
const EXEMPT: [(&str, &str); 4] = [
    ("consumers", "counts the rows that wait for consumers, every 5 s"),
    ("prune_markers", "runs once a minute, and deletes what came back more than a minute ago"),
    ("take_back_open_rows", "runs at the start and after a clock was set back, in no loop"),
    ("take_back_markers", "runs at the start and after a clock was set back, in no loop"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_loops_statements_scan_nothing() {
    let upstream = Upstream::always(say(Outcome::Republished)).await;
    let mut stage = Stage::new(&upstream, &["resend-rate=4", TOKEN]).await;
    stage.stop_first().await;
    fill(&stage).await;
    explain(&stage).await;
    Plans::capture();
    stage.start().await;

    let [confirmed, lost, swept] = [(); 3].map(|()| generate(40));
    stage.confirm("logistics", &confirmed).await;
    stage.recorded("logistics", confirmed[39]).await;
    stage.check(&[confirmed.clone(), lost.clone()].concat(), &["logistics"]).await;
    // Which of them are asked for is not said: much is missing, and canaries come first.
    eventually("some of them are asked for", LONG, async || !upstream.asked().is_empty()).await;
    // Once more, with other consumers; and one whose arming may have been rolled back.
    stage.check(&lost, &["logistics", "billing"]).await;
    let rolled_back = json!({ "id": swept[0].to_string(), "consumers": ["logistics"], "arming": "000000000000002a" });
    let messages = [rolled_back];
    stage
        .due(&json!({ "v": 1, "upstream": "returns", "armed_at_ms": 1, "messages": messages }))
        .await;
    stage.confirm("logistics", &lost).await;
    let logistics: &[&str] = &["logistics"];
    let asked: Vec<_> = swept.iter().map(|id| (id.to_string(), logistics)).collect();
    let forgotten = stage.find_unconfirmed("orders", &asked).await.unwrap();
    assert_eq!(forgotten.unconfirmed.len(), swept.len());
    create(&stage, request(JobAction::Resend, &lost[..3])).await;
    eventually("every statement in a loop has been explained", LONG, async || {
        let seen = Plans::names();
        let missing: Vec<_> = IN_LOOPS.into_iter().filter(|name| !seen.contains(*name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;

    let faults = Plans::faults();
    assert!(faults.is_empty(), "{}", faults.into_iter().collect::<Vec<_>>().join("\n"));
}

fn generate(count: usize) -> Vec<MessageId> {
    std::iter::repeat_with(MessageId::generate).take(count).collect()
}

/// Years of operation: another upstream's backlog, deferred resends, history, jobs, markers.
async fn fill(stage: &Stage) {
    const ID: &str =
        "(lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - 3600000 + n), 12, '0')
        || '70008000' || lpad(to_hex(n), 12, '0'))::uuid";
    let overdue = |upstream: &str, from: u64, columns: &str| {
        format!(
            "INSERT INTO overdue (message_id, upstream, consumers, reason, since,
                 state, cause, resends, due_at, closed_at)
             SELECT {ID}, '{upstream}', '{{logistics}}', '', now() - interval '2 hours',
                    {columns} FROM generate_series({from}, {from} + {FILLED}) AS series (n)"
        )
    };
    let hour = "now() + interval '1 hour'";
    let statements = [
        overdue("ships", 0, &format!("'waiting', 'consumer_behind', 0, {hour}, NULL")),
        overdue("ships", 100_000, "'waiting', 'no_address', 0, now() + n * interval '10 ms', NULL"),
        overdue("orders", 200_000, &format!("'waiting', 'consumer_behind', 1, {hour}, NULL")),
        overdue("orders", 300_000, "'parked', 'resends_used_up', 3, NULL, NULL"),
        overdue("orders", 400_000, "'confirmed', 'confirmed', 1, NULL, now()"),
        format!(
            "INSERT INTO confirmation SELECT {ID}, 'logistics', 1
             FROM generate_series(400000, 400000 + 3 * {FILLED}) AS series (n)"
        ),
        format!(
            "INSERT INTO consumer_report SELECT {ID}, 'logistics', 'rejected', ''
             FROM generate_series(1, {FILLED}) AS series (n)"
        ),
        format!(
            "INSERT INTO rolled_back SELECT {ID}, 'orders', n
             FROM generate_series(1, {FILLED}) AS series (n)"
        ),
        "INSERT INTO overdue_event (message_id, upstream, to_state, cause, reason, resends)
             SELECT message_id, upstream, 'waiting', 'not_confirmed', '', 0 FROM overdue"
            .to_owned(),
        format!(
            "INSERT INTO confirm_marker (shard, awaited, returned_at)
             SELECT n % 8, false, now() FROM generate_series(1, {FILLED}) AS series (n)"
        ),
        format!(
            "INSERT INTO job (job_id, action, selection, who, why, items, state, step, succeeded, ended_at)
             SELECT gen_random_uuid(), 'note', '1 ids', 'ada', 'seen', 1, 'done', 0, 1, now()
             FROM generate_series(1, {FILLED})"
        ),
        "INSERT INTO job_item (job_id, position, message_id, upstream, state, counted, ended_at)
             SELECT job_id, 1, gen_random_uuid(), 'orders', 'succeeded', true, now() FROM job"
            .to_owned(),
        "ANALYZE".to_owned(),
    ];
    for sql in statements {
        sqlx::query(sqlx::AssertSqlSafe(sql.clone())).execute(&stage.pool).await.expect(&sql);
    }
}

/// From the next connection on, Postgres tells the plan of every statement.
async fn explain(stage: &Stage) {
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_format = 'json'",
        "auto_explain.log_level = 'notice'",
    ] {
        let sql = format!("ALTER DATABASE {} SET {setting}", stage.database.name());
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&stage.pool).await.unwrap();
    }
}

/// The plans that Postgres has told, by the statement's name: the comment in its first line.
static PLANS: Mutex<BTreeMap<String, Vec<Value>>> = Mutex::new(BTreeMap::new());

/// Hears what Postgres tells the connections of this process, and nothing else.
struct Plans;

impl Plans {
    fn capture() {
        tracing::subscriber::set_global_default(Self).expect("no other test listens");
    }

    fn note(message: &str) {
        let Some((_, plan)) = message.split_once("plan:") else { return };
        let plan: Value = serde_json::from_str(plan).expect("auto_explain tells JSON");
        let text = plan["Query Text"].as_str().unwrap_or_default();
        let name = text.trim_start_matches("-- ").lines().next().unwrap_or_default();
        let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
        plans.entry(name.trim().to_owned()).or_default().push(plan["Plan"].clone());
    }

    fn names() -> BTreeSet<String> {
        PLANS.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// What is wrong, each once.
    fn faults() -> BTreeSet<String> {
        let plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut faults = BTreeMap::new();
        for (name, plans) in plans.iter() {
            if EXEMPT.iter().any(|(exempt, _)| exempt == name) {
                continue;
            }
            for plan in plans {
                judge(name, plan, &mut faults);
            }
        }
        faults.into_iter().map(|(fault, rows)| format!("{fault}: {rows}")).collect()
    }
}

/// Looks at a step of a plan and at those below it.
fn judge(name: &str, step: &Value, faults: &mut BTreeMap<String, u64>) {
    let number = |key: &str| step[key].as_f64().unwrap_or_default();
    let loops = number("Actual Loops");
    let removed = ["Filter", "Index Recheck", "Join Filter"]
        .map(|by| number(&format!("Rows Removed by {by}")))
        .iter()
        .sum::<f64>();
    // The counts are means over the loops, rounded.
    let [removed, read] =
        [removed, removed + number("Actual Rows")].map(|rows| (rows * loops).round() as u64);
    let of = [&step["Node Type"], &step["Relation Name"], &step["Index Name"]];
    let of: Vec<&str> = of.into_iter().filter_map(Value::as_str).collect();
    for (rows, most, what) in
        [(removed, MOST_REMOVED, "removes rows"), (read, MOST_ROWS, "reads rows")]
    {
        if rows > most {
            let worst = faults.entry(format!("{name}: {} {what}", of.join(" "))).or_default();
            *worst = rows.max(*worst);
        }
    }
    for below in step["Plans"].as_array().into_iter().flatten() {
        judge(name, below, faults);
    }
}

impl Subscriber for Plans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::postgres::notice"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_str(&mut self, field: &Field, value: &str) {
                if field.name() == "message" {
                    self.0.push_str(value);
                }
            }

            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == "message" {
                    let _ = write!(self.0, "{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        Self::note(&message.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

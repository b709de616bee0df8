//! Operators' commands, against all programs running.

use std::process::{Output, Stdio};

use countersign_protocol::MessageId;
use countersign_testbed::{HEALED, SOON, eventually, program};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::world::{GRACE, ORDERS_QUEUE, QUARANTINE, World};

/// `countersign`, with the world's addresses in its environment.
struct Operator<'a> {
    world: &'a World,
}

impl Operator<'_> {
    /// Exit code, standard output, standard error.
    async fn types(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        told(self.begins(arguments).wait_with_output().await.unwrap())
    }

    /// The same command, still running.
    fn begins(&self, arguments: &[&str]) -> Child {
        let world = self.world;
        let [orders, logistics, callback] = world.databases.urls();
        Command::new(program("countersign").unwrap())
            .args(arguments)
            .env_clear()
            .env("USER", "ada")
            .env("COUNTERSIGN_CALLBACK", world.callback.url())
            .env("COUNTERSIGN_UPSTREAM", world.orders.url())
            .env("COUNTERSIGN_AMQP_URL", world.vhost.url())
            .env("COUNTERSIGN_MANAGEMENT_URL", world.vhost.management_url())
            .env("COUNTERSIGN_DATABASE_URL", [orders, logistics, callback].join(","))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// The same command with `--json`.
    async fn asks(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let (code, text, why) = self.types(&arguments).await;
        let told = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}\n{why}"));
        (code, told)
    }

    /// A doctor's findings beyond those that the broker's version deserves, as `severity subject:
    /// finding`.
    async fn findings(&self) -> Vec<String> {
        let (code, told) = self.asks(&["doctor", "--queue", "logistics.orders"]).await;
        assert_eq!(told["not_looked_at"], json!([]), "everything was given and answers");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = told["findings"].as_array().unwrap();
        let has_error = all.iter().any(|finding| finding["severity"] == json!("error"));
        assert_eq!(code, Some(i32::from(has_error)), "{told}");
        all.iter()
            .filter(|finding| !text(&finding["subject"]).starts_with("RabbitMQ "))
            .map(|f| {
                let [severity, subject, finding, fix] =
                    ["severity", "subject", "finding", "fix"].map(|name| text(&f[name]));
                assert!(!fix.is_empty());
                format!("{severity} {subject}: {finding}")
            })
            .collect()
    }

    /// Waits until a doctor has as many findings, each with this text in it.
    async fn finds(&self, expected: &[&str]) {
        eventually(&format!("the doctor finds {expected:?}"), HEALED, async || {
            let found = self.findings().await;
            let all = found.len() == expected.len()
                && expected.iter().all(|part| found.iter().any(|finding| finding.contains(part)));
            if all { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

fn told(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_doctor_finds_nothing_on_a_fresh_stack_and_then_what_is_done_to_it() {
    let world = World::running().await;
    let operator = Operator { world: &world };
    let order = world.place("a chair").await;
    world.shipped(&order).await;
    operator.finds(&[]).await;
    eventually("logistics is known as a consumer", HEALED, async || {
        let (code, told) = operator.asks(&["consumers"]).await;
        let names: Vec<_> =
            told["consumers"].as_array().unwrap().iter().map(|c| &c["consumer"]).collect();
        if code == Some(0) && names == ["logistics"] { Ok(()) } else { Err(told.to_string()) }
    })
    .await;

    // An administrator's housekeeping.
    let broad = json!({ "message-ttl": 500, "overflow": "drop-head" });
    world.vhost.set_policy("housekeeping", ".*", broad).await;
    let wait = "error queue countersign.check.wait.1s: the policy housekeeping sets";
    eventually("the policy is found", HEALED, async || {
        let found = operator.findings().await;
        let has = |part: &str| found.iter().any(|finding| finding.starts_with(part));
        if has(&format!("{wait} message-ttl to 500"))
            && has(&format!("{wait} overflow to \"drop-head\""))
        {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
    world.vhost.clear_policy("housekeeping").await;
    operator.finds(&[]).await;

    // An administrator's slip of the hand.
    world.vhost.unbind("countersign.check", "countersign.check.wait.5s", "5s").await;
    operator
        .finds(&["error binding of countersign.check.wait.5s to countersign.check: it is missing"])
        .await;
    world.vhost.bind("countersign.check", "countersign.check.wait.5s", "5s").await;
    operator.finds(&[]).await;

    sqlx::raw_sql(
        "INSERT INTO overdue (message_id, upstream, consumers, state, cause, reason)
         VALUES (gen_random_uuid(), 'orders', '{logistics}', 'parked', 'rejected', 'a test')",
    )
    .execute(&world.databases.callback)
    .await
    .unwrap();
    operator.finds(&["parked messages: 1 (1 rejected)"]).await;
}

#[tokio::test]
async fn what_was_put_aside_is_replayed_once_its_cause_is_mended() {
    let world = World::running().await;
    let operator = Operator { world: &world };
    let id = MessageId::generate().to_string();
    let broken =
        format!("ALTER TABLE confirmation ADD CONSTRAINT broken CHECK (message_id <> '{id}')");
    sqlx::raw_sql(sqlx::AssertSqlSafe(broken)).execute(&world.databases.callback).await.unwrap();
    let confirm = json!({ "v": 1, "consumer": "logistics",
        "confirms": [{ "id": id, "outcome": "processed" }] });
    let properties = json!({ "delivery_mode": 2, "app_id": "by hand" });
    let garbage = b"nonsense";
    for body in [confirm.to_string().as_bytes(), garbage] {
        assert!(world.vhost.publish("countersign.confirm", "0", properties.clone(), body).await);
    }
    world.holds(QUARANTINE, 2).await;

    let (_, listed) = operator.asks(&["quarantine", "list"]).await;
    assert_eq!(listed["matching"], json!(2), "{listed}");
    let (code, text, _) =
        operator.types(&["quarantine", "list", "--reason", "database refuses", "--bodies"]).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("countersign.confirm.0") && text.contains(&id), "{text}");

    // The fault is not mended: it comes back.
    let replay = ["quarantine", "replay", "--reason", "database refuses"];
    let (code, told) = operator.asks(&replay).await;
    assert_eq!((code, &told["done"]), (Some(0), &json!(1)), "{told}");
    world.holds(QUARANTINE, 2).await;
    sqlx::raw_sql("ALTER TABLE confirmation DROP CONSTRAINT broken")
        .execute(&world.databases.callback)
        .await
        .unwrap();
    let (code, told) = operator.asks(&replay).await;
    assert_eq!((code, &told["done"]), (Some(0), &json!(1)), "{told}");
    eventually("the confirm is recorded", HEALED, async || {
        let (_, told) = operator.asks(&["status", &id]).await;
        if told["state"] == json!("confirmed") { Ok(()) } else { Err(told) }
    })
    .await;
    let drop = ["quarantine", "drop", "--reason", "not a confirm envelope", "--yes"];
    let (code, told) = operator.asks(&drop).await;
    assert_eq!((code, &told["done"]), (Some(0), &json!(1)), "{told}");
    world.is_empty(QUARANTINE).await;
}

const TOKEN: &str = "let-me-in";

#[tokio::test]
async fn parked_messages_are_found_sent_again_and_followed_to_their_end() {
    let mut world = World::new().await;
    world.callback.set("COUNTERSIGN_MAX_RESENDS", "0").set("COUNTERSIGN_TOKEN", TOKEN);
    world.start().await;
    world.logistics.terminate(GRACE).await.unwrap();
    let orders = world.place_many(8).await;
    world.holds(ORDERS_QUEUE, 8).await;
    world.destroy(ORDERS_QUEUE).await;
    for order in &orders {
        world.is_in_state(order, "parked").await;
    }
    world.logistics.start().unwrap();
    world.logistics.ready(SOON).await.unwrap();
    let operator = Operator { world: &world };

    let (code, told) = operator.asks(&["overdue"]).await;
    assert_eq!((code, told["messages"].as_array().unwrap().len()), (Some(0), 8), "{told}");
    let (_, text, _) = operator.types(&["overdue", "--limit", "3"]).await;
    assert!(text.ends_with("first 3 of 8; --all, or --limit N\n"), "{text}");
    let (_, told) = operator.asks(&["overdue", "--count", "--by", "state,cause"]).await;
    let group = &told["groups"][0];
    assert_eq!((&group["state"], &group["messages"]), (&json!("parked"), &json!(8)), "{told}");
    let (_, told) = operator.asks(&["overdue", "--consumer", "nobody"]).await;
    assert_eq!(told["messages"], json!([]));

    let resend = ["resend", "--all", "--state", "parked", "--yes", "--why", "it is mended"];
    let (code, _, why) = operator.types(&resend).await;
    assert_eq!(code, Some(1));
    assert!(why.contains("COUNTERSIGN_TOKEN"), "{why}");
    let resend = [&resend[..], &["--token", TOKEN]].concat();
    let (code, told) = operator.asks(&[&resend[..], &["--dry-run"]].concat()).await;
    assert_eq!((code, &told["job"]["items"]), (Some(0), &json!(8)), "{told}");
    let (code, job) = operator.asks(&resend).await;
    assert_eq!((code, &job["state"], &job["succeeded"]), (Some(0), &json!("done"), &json!(8)));

    let job_id = job["job_id"].as_str().unwrap();
    let (code, told) = operator.asks(&["jobs", "show", job_id]).await;
    assert_eq!((code, told["items"].as_array().unwrap().len()), (Some(0), 8), "{told}");
    let (_, text, _) = operator.types(&["jobs"]).await;
    assert!(text.contains(job_id) && text.contains("it is mended"), "{text}");
    let (_, text, _) = operator.types(&["status", &orders[0].message_id.to_string()]).await;
    assert!(text.contains("resend by ada") && text.contains("it is mended"), "{text}");
    world.audit().await;
}

#[tokio::test]
async fn what_fails_again_is_told_and_what_is_closed_stays_closed() {
    let mut world = World::new().await;
    world.callback.set("COUNTERSIGN_MAX_RESENDS", "0").set("COUNTERSIGN_TOKEN", TOKEN);
    world.start().await;
    // A label holds 40 characters: logistics will never accept it.
    let order = world.place(&"x".repeat(41)).await;
    world.is_in_state(&order, "parked").await;
    let operator = Operator { world: &world };
    let id = order.message_id.to_string();
    let because = ["--yes", "--token", TOKEN, "--why", "ticket 4711"];

    let (code, job) = operator.asks(&[&["resend", &id], &because[..]].concat()).await;
    assert_eq!((code, &job["failed"]), (Some(1), &json!(1)), "{job}");
    let job_id = job["job_id"].as_str().unwrap();
    let (code, text, _) = operator.types(&["jobs", "show", job_id, "--state", "failed"]).await;
    assert_eq!(code, Some(1));
    assert!(text.contains(&id) && text.contains("rejected"), "{text}");

    for action in ["note", "close"] {
        let (code, job) = operator.asks(&[&[action, &id], &because[..]].concat()).await;
        assert_eq!((code, &job["succeeded"]), (Some(0), &json!(1)), "{action}: {job}");
    }
    let (_, told) = operator.asks(&["status", &id]).await;
    let actions: Vec<_> =
        told["actions"].as_array().unwrap().iter().map(|a| a["action"].as_str().unwrap()).collect();
    assert_eq!(
        (&told["state"], actions),
        (&json!("closed_by_hand"), vec!["resend", "note", "close"])
    );
    let (code, _, why) = operator.types(&["close", "--all", "--why", "no reason"]).await;
    assert_eq!(code, Some(64));
    assert!(why.contains("--all of which"), "{why}");
}

#[tokio::test]
async fn whoever_leaves_a_job_is_told_how_to_look_at_it_and_it_goes_on() {
    let mut world = World::new().await;
    world.callback.set("COUNTERSIGN_TOKEN", TOKEN);
    world.start().await;
    sqlx::raw_sql(
        "INSERT INTO overdue (message_id, upstream, consumers, state, cause, reason)
         SELECT gen_random_uuid(), 'orders', '{logistics}', 'parked', 'rejected', 'a test'
         FROM generate_series(1, 100)",
    )
    .execute(&world.databases.callback)
    .await
    .unwrap();
    let operator = Operator { world: &world };
    let close =
        ["close", "--all", "--state", "parked", "--rate", "0.01", "--yes", "--why", "a test"];
    let closing = operator.begins(&[&close[..], &["--token", TOKEN]].concat());
    let job_id = eventually("the job runs", HEALED, async || {
        let (_, told) = operator.asks(&["jobs"]).await;
        told["jobs"][0]["job_id"].as_str().map(str::to_owned)
    })
    .await;
    // Ctrl-C.
    let pid = closing.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let (code, _, why) = told(closing.wait_with_output().await.unwrap());
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains(&format!("countersign jobs show {job_id} --follow")), "{why}");

    let (code, told) = operator.asks(&["jobs", "show", &job_id]).await;
    assert_eq!((code, &told["job"]["state"]), (Some(0), &json!("running")), "{told}");
    assert_eq!(told["items"].as_array().unwrap().len(), 100);
    let cancel = ["jobs", "cancel", &job_id, "--token", TOKEN, "--why", "enough"];
    let (code, job) = operator.asks(&cancel).await;
    assert_eq!((code, &job["state"]), (Some(0), &json!("cancelled")), "{job}");
    let (code, text, _) = operator.types(&["jobs", "show", &job_id, "--limit", "2"]).await;
    assert_eq!(code, Some(1), "not all of it was done");
    assert!(text.ends_with("first 2 of 100; --all, or --limit N\n"), "{text}");
}

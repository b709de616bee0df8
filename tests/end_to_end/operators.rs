//! What operators type, against everything running.

use std::path::PathBuf;
use std::process::Stdio;

use countersign_protocol::MessageId;
use countersign_testbed::eventually;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::world::{HEALED, QUARANTINE, World};

/// `countersign`, with the world's addresses in its environment.
struct Operator<'a> {
    world: &'a World,
}

impl Operator<'_> {
    /// Exit code, standard output, standard error.
    async fn types(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let world = self.world;
        let [orders, logistics, callback] = world.databases.urls();
        let output = Command::new(program())
            .args(arguments)
            .env_clear()
            .env("COUNTERSIGN_CALLBACK", world.callback.url())
            .env("COUNTERSIGN_UPSTREAM", world.orders.url())
            .env("COUNTERSIGN_AMQP_URL", world.vhost.url())
            .env("COUNTERSIGN_MANAGEMENT_URL", world.vhost.management().url())
            .env("COUNTERSIGN_DATABASE_URL", [orders, logistics, callback].join(","))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// The same with `--json`.
    async fn asks(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let (code, text, why) = self.types(&arguments).await;
        let told = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}\n{why}"));
        (code, told)
    }

    /// What a doctor finds beyond what the broker's version deserves, as `severity subject: finding`.
    async fn findings(&self) -> Vec<String> {
        let (code, told) = self.asks(&["doctor", "--queue", "logistics.orders"]).await;
        let mut told = told;
        told["not_looked_at"]
            .as_array_mut()
            .unwrap()
            .retain(|not| !not["why"].as_str().unwrap().contains("is older than this program"));
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

    /// Waits until a doctor finds as many things, each with this in it.
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

/// Beside this test's own program.
fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("countersign")
}

#[tokio::test]
async fn a_doctor_finds_nothing_on_a_fresh_stack_and_then_what_is_done_to_it() {
    let world = World::running().await;
    let operator = Operator { world: &world };
    let order = world.place("a chair").await;
    world.shipped(&order).await;
    operator.finds(&[]).await;

    // Somebody's housekeeping.
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

    // Somebody's slip of the hand.
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
    operator.finds(&["1 messages are parked (1 rejected)"]).await;
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

    // Not mended: it comes back.
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

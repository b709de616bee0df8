//! Clients in Python that know only the wire contract.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use countersign_testbed::{HEALED, eventually};
use serde_json::Value;
use tokio::process::Command;

use crate::world::{ORDERS_QUEUE, QUARANTINE, World};

#[tokio::test]
async fn a_stranger_consumes_and_its_confirms_count() {
    const ORDERS: usize = 5;
    let python = python().await;
    let world = World::new().await;
    world.callback.start().unwrap();
    world.orders.start().unwrap();
    world.callback.ready(HEALED).await.unwrap();
    world.orders.ready(HEALED).await.unwrap();
    // The client makes the queue that logistics would have made.
    let count = ORDERS.to_string();
    let url = world.vhost.url().to_owned();
    let arguments = [
        "--amqp-url",
        &url,
        "--queue",
        ORDERS_QUEUE,
        "--exchange",
        "orders",
        "--key",
        "order.placed",
        "--consumer",
        "logistics",
        "--count",
        &count,
        "--timeout",
        "50",
    ];
    let placing = async {
        eventually("the stranger's queue is there", HEALED, async || {
            world.vhost.depth(ORDERS_QUEUE).await.is_some()
        })
        .await;
        world.place_many(ORDERS).await
    };
    let (said, orders) = tokio::join!(run(&python, "consume_and_confirm.py", &arguments), placing);
    assert_eq!(said.last().unwrap()["confirmed"], ORDERS, "{said:?}");
    for order in &orders {
        let message = world.is_in_state(order, "confirmed").await;
        assert_eq!(message.confirms[0].consumer, "logistics");
    }
    world.checks_have_come_due().await;
    assert!(world.overdue().await.iter().all(|row| row.state == "confirmed"));
}

#[tokio::test]
async fn garbage_on_every_exchange_harms_nothing_and_is_found_with_reasons() {
    let python = python().await;
    let world = World::running().await;
    let before = world.place("before the garbage").await;
    world.is_in_state(&before, "confirmed").await;
    let url = world.vhost.url().to_owned();
    let arguments = ["--amqp-url", &url, "--tier", "1s", "--big-mib", "4"];
    let said = run(&python, "garbage.py", &arguments).await;
    let expected = &said.last().unwrap()["expected"];
    let number = |name: &str| expected[name].as_u64().unwrap();

    // The ledger takes its good entries: it records confirms and looks checks up.
    let ids = |name: &str| -> BTreeSet<String> {
        let ids = expected[name].as_array().unwrap();
        ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    let recorded = "SELECT DISTINCT message_id::text FROM confirmation WHERE consumer = 'stranger'";
    world.callback_finds("every good confirm is recorded", recorded, &ids("confirms")).await;
    let noted = "SELECT DISTINCT message_id::text FROM overdue";
    world.callback_finds("every good check is looked up", noted, &ids("checks")).await;

    // The rest lies in quarantine, or in the consumer's dead queue, each with its reason.
    let quarantined = number("quarantined") + number("refused");
    let reasons = world.pieces_with_reason(QUARANTINE, quarantined + number("direct")).await;
    assert_eq!(reasons, quarantined, "each piece in quarantine says why");
    let direct = said
        .iter()
        .filter(|line| line["key"] == format!("{ORDERS_QUEUE}.dead"))
        .filter(|line| line["outcome"] == "routed")
        .count();
    let dead = format!("{ORDERS_QUEUE}.dead");
    let reasons = world.pieces_with_reason(&dead, number("dead")).await;
    assert_eq!(reasons, number("dead") - u64::try_from(direct).unwrap(), "so do dead letters");

    let after = world.place("after the garbage").await;
    world.is_in_state(&after, "confirmed").await;
    world.audit().await;
}

/// The folder of the strangers.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("strangers")
}

/// A Python with the clients' packages. Making it may take long the first time.
async fn python() -> String {
    let setup = Command::new(folder().join("setup")).output().await.unwrap();
    assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
    String::from_utf8(setup.stdout).unwrap().trim().to_owned()
}

/// Runs a stranger, and returns the lines that it printed.
async fn run(python: &str, script: &str, arguments: &[&str]) -> Vec<Value> {
    let ran = Command::new(python)
        .arg(folder().join(script))
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
    let said = String::from_utf8(ran.stdout).unwrap();
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

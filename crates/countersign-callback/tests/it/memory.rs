//! The service's memory stays bounded, however many messages wait in the broker.

use std::process::Stdio;
use std::time::Duration;

use countersign_amqp::{
    Connection, Outgoing, Properties, PublishOutcome, Publisher, PublisherSettings,
};
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::topology::{CHECK_DUE, CONFIRM};
use countersign_protocol::{MessageId, Tier, Topology};
use countersign_testbed::{Port, eventually};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::stage::Stage;
use crate::upstream::{Upstream, say};

/// How long one step may take: a debug build on a busy machine has tens of thousands of rows to write.
const LONG: Duration = Duration::from_secs(300);

/// The service's whole budget in RAM, however long its queues are.
const MOST_MEMORY_KB: u64 = 100 * 1024;

/// The service as a process, so that its memory is its own.
fn start(stage: &Stage, port: &Port) -> Child {
    Command::new(env!("CARGO_BIN_EXE_countersign-callback"))
        .env_clear()
        .envs(stage.environment())
        .env("COUNTERSIGN_LISTEN", format!("127.0.0.1:{}", port.number()))
        .env("COUNTERSIGN_LOG", "warn")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The most memory that the service has had in RAM so far, in kB.
fn most_memory_kb(service: &Child) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", service.id().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

struct Filler {
    connection: Connection,
    publisher: Publisher,
}

impl Filler {
    async fn new(stage: &Stage) -> Self {
        let tiers = ["5s", "30s", "5m"].map(|tier| tier.parse::<Tier>().unwrap());
        let topology = Topology::callback(&tiers, 1);
        let connection = Connection::start(stage.vhost.url().parse().unwrap(), "filler", topology);
        connection.ready().await;
        let publisher = Publisher::start(&connection, PublisherSettings::default());
        Self { connection, publisher }
    }

    async fn publish(&self, exchange: &str, key: &str, bodies: impl Iterator<Item = Value>) {
        let mut pending = Vec::new();
        for body in bodies {
            let message = Outgoing {
                exchange: exchange.to_owned(),
                key: key.to_owned(),
                properties: Properties::default(),
                body: body.to_string().into(),
            };
            pending.push(self.publisher.publish(message).unwrap());
            if pending.len() == 500 {
                for pending in pending.drain(..) {
                    assert_eq!(pending.await, PublishOutcome::Routed);
                }
            }
        }
        for pending in pending {
            assert_eq!(pending.await, PublishOutcome::Routed);
        }
    }

    /// Confirms of these messages, `together` in one message each.
    async fn confirms(&self, ids: &[MessageId], together: usize) {
        let entry = |id: &MessageId| {
            json!({ "id": id.to_string(), "outcome": "processed", "upstream": "orders",
                "queue": "logistics.orders", "attempt": 1, "published_at_ms": id.time().ms(),
                "at_ms": id.time().ms() })
        };
        let bodies = ids.chunks(together).map(|ids| {
            let confirms: Vec<Value> = ids.iter().map(entry).collect();
            json!({ "v": 1, "consumer": "logistics", "confirms": confirms })
        });
        self.publish(CONFIRM, "0", bodies).await;
    }

    /// Their checks, then one of a message that no consumer has confirmed, whose id is returned.
    async fn checks(&self, ids: &[MessageId], together: usize) -> MessageId {
        let last = [MessageId::generate()];
        let check = |ids: &[MessageId]| {
            let entry =
                |id: &MessageId| json!({ "id": id.to_string(), "consumers": ["logistics"] });
            let messages: Vec<Value> = ids.iter().map(entry).collect();
            json!({ "v": 1, "upstream": "orders", "armed_at_ms": 1, "messages": messages })
        };
        let bodies = ids.chunks(together).chain([&last[..]]).map(check);
        self.publish(CHECK_DUE, "", bodies).await;
        last[0]
    }
}

fn generate(count: usize) -> Vec<MessageId> {
    std::iter::repeat_with(MessageId::generate).take(count).collect()
}

/// Returns when this statement counts `count` rows or more.
async fn wait(what: &str, count: usize, sql: &'static str, stage: &Stage) {
    eventually(what, LONG, async || {
        let seen = stage.count(sql).await;
        if seen >= i64::try_from(count).unwrap() { Ok(()) } else { Err(seen) }
    })
    .await;
}

fn assert_bounded(service: &Child, after: &str) {
    let memory = most_memory_kb(service);
    assert!(memory < MOST_MEMORY_KB, "{memory} kB after {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_while_many_messages_wait() {
    const SINGLE: usize = 20_000;
    const SHARED: usize = 60_000;
    let mut stage = Stage::empty(&["max-resends=0"]).await;
    let port = Port::claim().unwrap();
    let filler = Filler::new(&stage).await;
    for (count, together, how) in [(SINGLE, 1, "single"), (SHARED, 1_000, "shared")] {
        let ids = generate(count);
        filler.confirms(&ids, together).await;
        stage.clear_tables().await;
        let service = start(&stage, &port);
        stage.wait_for_tables().await;
        const RECORDED: &str = "SELECT count(*) FROM confirmation";
        wait(&format!("confirms recorded, {how}"), count, RECORDED, &stage).await;
        assert_bounded(&service, &format!("confirms, {how}"));
        drop(service);

        let last = filler.checks(&ids, together).await;
        let service = start(&stage, &port);
        stage.state(last, "parked").await;
        assert_bounded(&service, &format!("checks, {how}"));
        assert_eq!(stage.count("SELECT count(*) FROM overdue").await, 1);
    }

    let upstream = Upstream::always(say(Outcome::Republished)).await;
    stage.upstream(&upstream);
    stage.set("max-resends=1");
    stage.set("resend-rate=100000");
    // As if so many more were confirmed that these are no storm.
    sqlx::query(
        "INSERT INTO upstream_tally (upstream, half_minute, looked_up)
         SELECT 'orders', half_minute, 1000000000
         FROM generate_series(floor(extract(epoch FROM now()) / 30)::bigint - 1,
                              floor(extract(epoch FROM now()) / 30)::bigint + 20)
             AS half (half_minute)
         ON CONFLICT (upstream, half_minute) DO UPDATE SET looked_up = excluded.looked_up",
    )
    .execute(&stage.pool)
    .await
    .unwrap();
    let ids = generate(SINGLE / 5);
    filler.checks(&ids, 1_000).await;
    let service = start(&stage, &port);
    const ASKED: &str = "SELECT count(*) FROM overdue WHERE resends = 1 AND state = 'waiting'";
    wait("resends asked for", ids.len(), ASKED, &stage).await;
    assert_bounded(&service, "resends");
    filler.confirms(&ids, 1_000).await;
    const CLOSED: &str = "SELECT count(*) FROM overdue WHERE state = 'confirmed'";
    wait("overdue messages resolved by their confirms", ids.len(), CLOSED, &stage).await;
    assert_bounded(&service, "resolving");
    filler.connection.close().await;
}

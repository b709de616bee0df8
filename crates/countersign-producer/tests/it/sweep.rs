//! The sweep over many enlisted ids, against a callback service that answers as a test has it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_amqp::Connection;
use countersign_producer::{
    CallbackAddress, MessageId, Publisher, SweepSettings, Sweeper, prepare,
};
use countersign_protocol::grpc::callback_server::{Callback, CallbackServer};
use countersign_protocol::grpc::find_unconfirmed_request::SweepProgress;
use countersign_protocol::grpc::{FindUnconfirmedRequest, FindUnconfirmedResponse};
use countersign_protocol::{Tier, Topology, UnixMillis};
use countersign_testbed::{SOON, database, eventually};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

use crate::stage::{Stage, settings};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
/// The check delay of [`settings`], in milliseconds.
const DELAY_MS: i32 = 300_000;

/// A callback service that knows every message but those that a test calls lost.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    lost: BTreeSet<MessageId>,
    asked: Vec<MessageId>,
    told: Vec<SweepProgress>,
}

impl Ledger {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(&self) -> (CallbackAddress, DropGuard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let stop = CancellationToken::new();
        let server = Server::builder().add_service(CallbackServer::new(self.clone()));
        let serving = server.serve_with_incoming_shutdown(
            TcpIncoming::from(listener),
            stop.clone().cancelled_owned(),
        );
        tokio::spawn(serving);
        (address, stop.drop_guard())
    }

    fn asked(&self, id: MessageId) -> usize {
        self.said().asked.iter().filter(|asked| **asked == id).count()
    }
}

#[tonic::async_trait]
impl Callback for Ledger {
    async fn find_unconfirmed(
        &self,
        request: Request<FindUnconfirmedRequest>,
    ) -> Result<Response<FindUnconfirmedResponse>, Status> {
        let request = request.into_inner();
        let mut said = self.said();
        said.told.extend(request.sweep);
        let ids = request.messages.iter().map(|message| message.message_id.parse().unwrap());
        let ids: Vec<MessageId> = ids.collect();
        said.asked.extend(&ids);
        let unconfirmed = ids.iter().filter(|id| said.lost.contains(id)).map(ToString::to_string);
        let unconfirmed = unconfirmed.collect();
        Ok(Response::new(FindUnconfirmedResponse { unconfirmed, ..Default::default() }))
    }
}

/// A stage with a ledger and a sweeper that looks five times a second.
struct Swept {
    stage: Stage,
    ledger: Ledger,
    settings: SweepSettings,
    _ledger: DropGuard,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Swept {
    async fn new() -> Self {
        let stage = Stage::new(settings()).await;
        let ledger = Ledger::default();
        let (address, guard) = ledger.listen().await;
        let mut settings = SweepSettings::new(address);
        settings.every = Duration::from_millis(200);
        settings.slack = Duration::from_millis(100);
        Self { stage, ledger, settings, _ledger: guard }
    }

    fn sweep(&self) -> Running {
        self.sweep_as(&self.stage.publisher, &self.stage.pool)
    }

    fn sweep_as(&self, publisher: &Publisher, pool: &PgPool) -> Running {
        let sweeper = Sweeper::new(publisher.clone(), pool.clone(), self.settings.clone());
        let stop = CancellationToken::new();
        Running { task: tokio::spawn(sweeper.run(stop.clone())), stop }
    }

    /// Enlists so many ids of an upstream and a check delay, evenly from `oldest` ago to `newest` ago.
    async fn enlist(
        &self,
        upstream: &str,
        delay_ms: i32,
        count: i64,
        (oldest, newest): (Duration, Duration),
    ) -> Vec<MessageId> {
        let now = i64::try_from(uuid::Uuid::now_v7().as_u128() >> 80).unwrap();
        let now = UnixMillis::from_ms(now);
        let (from, to) = (now.before(oldest), now.before(newest));
        let step = (to.ms() - from.ms()) / count;
        let ids = (0..count).map(|n| {
            let mut random = [0; 10];
            random[2..].copy_from_slice(&n.to_be_bytes());
            MessageId::from_parts(UnixMillis::from_ms(from.ms() + n * step), random)
        });
        let ids: Vec<MessageId> = ids.collect();
        sqlx::query(
            "INSERT INTO countersign.enlisted (message_id, upstream, consumers, check_delay_ms)
             SELECT message_id, $2, 'thinker', $3 FROM UNNEST($1::uuid[]) AS enlisted (message_id)",
        )
        .bind(ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())
        .bind(upstream)
        .bind(delay_ms)
        .execute(&self.stage.pool)
        .await
        .unwrap();
        ids
    }

    /// The head's place, the walk's place, and whether the walk has ended.
    async fn places(&self) -> (Option<MessageId>, Option<MessageId>, bool) {
        let row: Option<(Option<uuid::Uuid>, Option<uuid::Uuid>, bool)> = sqlx::query_as(
            "SELECT head, walk, walk_ended_at IS NOT NULL FROM countersign.sweep
             WHERE upstream = 'tested'",
        )
        .fetch_optional(&self.stage.pool)
        .await
        .unwrap();
        let id = |id: uuid::Uuid| MessageId::try_from(id).unwrap();
        row.map_or((None, None, false), |(head, walk, ended)| (head.map(id), walk.map(id), ended))
    }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task).await.expect("the sweeper stops").unwrap();
    }
}

#[tokio::test]
async fn the_head_reaches_what_is_new_while_the_walk_has_30_days_before_it() {
    let swept = Swept::new().await;
    let old = swept.enlist("tested", DELAY_MS, 50_000, (29 * DAY, DAY)).await;
    let new = swept.enlist("tested", DELAY_MS, 1_000, (20 * MINUTE, 10 * MINUTE)).await;
    let lost = new[500];
    swept.ledger.said().lost.insert(lost);
    let running = swept.sweep();
    eventually("what was lost has a fresh check", SOON, async || {
        swept.stage.checks_of(lost).await == 1
    })
    .await;
    eventually("the head is told to be up to date", SOON, async || {
        swept.ledger.said().told.last().is_some_and(|told| told.behind_ms == 0)
    })
    .await;
    {
        let said = swept.ledger.said();
        let first_old = said.asked.iter().position(|id| *id <= old[old.len() - 1]);
        let of_lost = said.asked.iter().position(|id| *id == lost).unwrap();
        assert!(first_old.is_none_or(|first| of_lost < first), "the head comes first");
    }
    running.stop().await;
    let (head, ..) = swept.places().await;
    assert!(head.unwrap() < lost, "it is not passed for good before it is known");
}

#[tokio::test]
async fn a_restart_loses_neither_place_and_a_walk_ends_although_the_next_is_due() {
    let mut swept = Swept::new().await;
    // As if a walk took longer than a day.
    swept.settings.anew = Duration::from_millis(1);
    let old = swept.enlist("tested", DELAY_MS, 40_000, (29 * DAY, DAY)).await;
    let new = swept.enlist("tested", DELAY_MS, 100, (20 * MINUTE, 10 * MINUTE)).await;
    let running = swept.sweep();
    eventually("the walk is on its way", SOON, async || swept.places().await.1.is_some()).await;
    running.stop().await;
    let (head, walk, has_ended) = swept.places().await;
    let (head, walk) = (head.unwrap(), walk.unwrap());
    assert!(head > new[99], "{head}");
    assert!(!has_ended && walk < old[39_999], "{walk}");

    swept.ledger.said().asked.clear();
    let running = swept.sweep();
    let last = old[39_999];
    eventually("the walk comes to what is new", SOON, async || swept.ledger.asked(last) > 0).await;
    let asked: Vec<MessageId> = swept.ledger.said().asked.clone();
    assert!(asked[0] > walk, "the walk goes on where it was");
    assert!(
        asked.iter().all(|id| *id <= last),
        "the head has nothing new to ask about, and the walk has not come to it"
    );
    running.stop().await;
}

#[tokio::test]
async fn what_was_armed_is_asked_about_again_and_nothing_else() {
    let mut swept = Swept::new().await;
    let tier: Tier = "200ms".parse().unwrap();
    let wait_queue = Connection::start(
        swept.stage.vhost.url().parse().unwrap(),
        "wait queue",
        Topology::callback(&[tier], 1),
    );
    wait_queue.ready().await;
    let mut of_tier = settings().with_database(swept.stage.identity);
    of_tier.tier = tier;
    let publisher = Publisher::start(swept.stage.vhost.url().parse().unwrap(), of_tier).unwrap();
    publisher.ready().await;
    swept.settings.anew = DAY;
    let ids = swept.enlist("tested", 200, 3_000, (20 * MINUTE, 10 * MINUTE)).await;
    let (lost, after) = (ids[1_500], ids[2_500]);
    swept.ledger.said().lost.insert(lost);
    let running = swept.sweep_as(&publisher, &swept.stage.pool);
    // Its second check is lost, too, and the third is not.
    eventually("what was armed is asked about again", SOON, async || swept.ledger.asked(lost) >= 3)
        .await;
    swept.ledger.said().lost.clear();
    eventually("the head passes it for good", SOON, async || {
        swept.places().await.0.is_some_and(|head| head > after)
    })
    .await;
    running.stop().await;
    let (before, after) = (swept.ledger.asked(ids[10]), swept.ledger.asked(after));
    // Once by the head, and once by the walk at most.
    assert!((1..=2).contains(&before) && (1..=2).contains(&after), "{before} {after}");
    wait_queue.close().await;
}

#[tokio::test]
async fn a_sweep_asks_about_its_own_upstream_s_messages_of_its_own_check_delay_alone() {
    let swept = Swept::new().await;
    let others = swept.enlist("busy", DELAY_MS, 25_000, (20 * MINUTE, 10 * MINUTE)).await;
    let slow = swept.enlist("tested", 3_600_000, 500, (19 * MINUTE, 11 * MINUTE)).await;
    let lost = swept.enlist("tested", DELAY_MS, 3, (9 * MINUTE, 8 * MINUTE)).await;
    swept.ledger.said().lost.extend(others.iter().chain(&slow).chain(&lost));
    let running = swept.sweep();
    eventually("its own are armed", SOON, async || swept.stage.checks_of(lost[2]).await == 1).await;
    eventually("the walk has ended", SOON, async || swept.places().await.2).await;
    running.stop().await;
    let asked: BTreeSet<MessageId> = swept.ledger.said().asked.iter().copied().collect();
    assert_eq!(asked, lost.iter().copied().collect());
}

#[tokio::test]
async fn what_is_too_young_for_a_look_is_not_passed_and_has_its_look_in_time() {
    const CHECK_DELAY: Duration = Duration::from_secs(300);
    let swept = Swept::new().await;
    // Too young by a few seconds, and by minutes: the broker may still deliver their checks.
    let aged = |age: Duration| (age, Duration::ZERO);
    let soon = swept.enlist("tested", DELAY_MS, 1, aged(CHECK_DELAY - 3 * SECOND)).await[0];
    let young = swept.enlist("tested", DELAY_MS, 1, aged(MINUTE)).await[0];
    swept.ledger.said().lost.extend([soon, young]);
    let running = swept.sweep();
    eventually("the head has made a round", SOON, async || swept.places().await.0.is_some()).await;
    eventually("what was lost has a fresh check", SOON, async || {
        swept.stage.checks_of(soon).await > 0
    })
    .await;
    running.stop().await;
    assert_eq!(swept.ledger.asked(young), 0, "its check may still come due");
}

#[tokio::test]
async fn a_sweeper_whose_pool_leads_to_another_database_asks_nothing() {
    let swept = Swept::new().await;
    let other = database().await;
    let pool = other.pool().await.unwrap();
    let shutdown = CancellationToken::new();
    prepare(&pool, DAY, shutdown.clone()).await.unwrap();
    let running = swept.sweep_as(&swept.stage.publisher, &pool);
    eventually("the sweeper asks which database this is", SOON, async || {
        let asked: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = $1 AND query LIKE '-- identity%' AND state = 'idle'",
        )
        .bind(other.name())
        .fetch_one(&swept.stage.pool)
        .await
        .unwrap();
        asked > 0
    })
    .await;
    running.stop().await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM countersign.sweep")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((rows, swept.ledger.said().told.len()), (0, 0));
    assert_eq!(swept.ledger.said().asked, []);
    shutdown.cancel();
}

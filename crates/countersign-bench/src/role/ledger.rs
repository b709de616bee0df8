//! The textbook scheme's service: it records each confirm with an insert, and looks each check up
//! with a select.
//!
//! The service is meant to be a fair opponent: it takes deliveries in parallel over a pool of
//! connections, so that commits share their fsyncs, with prepared statements, a prefetch and
//! coalesced acks, on a table without partitions. It does not take several deliveries in one
//! statement: that is the idea it is compared with.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use countersign_amqp::{Address, Connection, Consumer, Delivery, Subscription};
use countersign_protocol::{
    Check, Confirm, MessageId, Tier, Topology, UnixMillis, Window, topology,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Executor as _, PgPool};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::wire::{News, Orders};

/// The ledger's arguments.
#[derive(Clone, Debug, Args)]
pub(crate) struct TextbookArguments {
    #[arg(long)]
    pub(crate) amqp_url: Address,
    #[arg(long)]
    pub(crate) database_url: String,
    #[arg(long)]
    pub(crate) tier: Tier,
    #[arg(long)]
    pub(crate) concurrency: u32,
}

/// The table of what is recorded has the name and the meaning of the callback service's.
const TABLES: &str = "
    CREATE TABLE confirmation (
        message_id uuid PRIMARY KEY,
        consumer text NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE overdue (
        message_id uuid PRIMARY KEY,
        found_at timestamptz NOT NULL DEFAULT now()
    );";
const RECORD: &str =
    "INSERT INTO confirmation (message_id, consumer) VALUES ($1, $2) ON CONFLICT DO NOTHING";
const LOOK_UP: &str = "SELECT EXISTS (SELECT FROM confirmation WHERE message_id = $1)";
const OVERDUE: &str = "INSERT INTO overdue (message_id) VALUES ($1) ON CONFLICT DO NOTHING";

pub(super) async fn play(arguments: TextbookArguments) -> Result<()> {
    let TextbookArguments { amqp_url, database_url, tier, concurrency } = arguments;
    let options: PgConnectOptions = database_url.parse()?;
    let pool = PgPoolOptions::new()
        .max_connections(concurrency)
        .min_connections(concurrency)
        .connect_with(options)
        .await?;
    pool.execute(TABLES).await?;
    let connection = Connection::start(amqp_url, "textbook-ledger", Topology::callback(&[tier], 1));
    connection.ready().await;
    let places = Arc::new(Semaphore::new(concurrency as usize));
    let confirms = Queue::open(&connection, &topology::confirm_queue(0), &places);
    let checks = Queue::open(&connection, topology::CHECK_DUE, &places);
    News::Ready.say()?;
    let mut orders = Orders::open();
    tokio::select! {
        end = orders.end() => end,
        failed = confirms.serve(|delivery| record(pool.clone(), delivery)) => failed,
        failed = checks.serve(|delivery| look_up(pool.clone(), delivery)) => failed,
    }
}

async fn record(pool: PgPool, delivery: Delivery) -> Result<Delivery> {
    let (confirm, _) = Confirm::read(&delivery.body, window())?;
    for entry in &confirm.entries {
        sqlx::query(RECORD)
            .bind(entry.id.uuid())
            .bind(confirm.header.consumer.as_str())
            .execute(&pool)
            .await?;
    }
    Ok(delivery)
}

async fn look_up(pool: PgPool, delivery: Delivery) -> Result<Delivery> {
    let (check, _) = Check::read(&delivery.body, window())?;
    for entry in &check.entries {
        let confirmed: bool =
            sqlx::query_scalar(LOOK_UP).bind(entry.id.uuid()).fetch_one(&pool).await?;
        if !confirmed {
            sqlx::query(OVERDUE).bind(entry.id.uuid()).execute(&pool).await?;
        }
    }
    Ok(delivery)
}

fn window() -> Window {
    let retention = Duration::from_secs(24 * 60 * 60);
    // The time as a fresh id has it.
    let now: UnixMillis = MessageId::generate().time();
    Window::at(now, retention)
}

/// A queue whose deliveries are worked on in parallel.
struct Queue {
    consumer: Consumer,
    places: Arc<Semaphore>,
}

impl Queue {
    /// How many deliveries are under way for each that is worked on.
    const PREFETCH: u16 = 2_000;

    fn open(connection: &Connection, queue: &str, places: &Arc<Semaphore>) -> Self {
        let subscription =
            Subscription { queue: queue.to_owned(), prefetch: Self::PREFETCH, priority: None };
        Self { consumer: Consumer::start(connection, subscription), places: Arc::clone(places) }
    }

    /// Works until a step fails.
    async fn serve<W>(mut self, work: impl Fn(Delivery) -> W) -> Result<()>
    where
        W: Future<Output = Result<Delivery>> + Send + 'static,
    {
        let acks = self.consumer.acks();
        let mut running = JoinSet::new();
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await?;
            let delivery = self.consumer.next().await.context("the connection is closed")?;
            let (acks, work) = (acks.clone(), work(delivery));
            running.spawn(async move {
                let done = work.await?;
                acks.ack(done.tag);
                drop(place);
                anyhow::Ok(())
            });
            while let Some(ended) = running.try_join_next() {
                ended??;
            }
        }
    }
}

//! A consumer from its start to its last ack.

use std::sync::Arc;
use std::time::Duration;

use countersign_amqp::{Address, Connection, Consumer, Publisher, PublisherSettings, Subscription};
use countersign_postgres::{Partitions, migrate};
use countersign_protocol::{Topology, Window};
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::clock;
use crate::complaints::Complaints;
use crate::confirms::Confirms;
use crate::delivery::Raw;
use crate::effect::{Effect, WithInbox, WithoutInbox};
use crate::ending::Endings;
use crate::error::Error;
use crate::handler::{BatchHandler, Handler, OneByOne};
use crate::inbox::Inbox;
use crate::patience::Patience;
use crate::settings::ConsumerSettings;
use crate::worker::Worker;

/// Of the drain deadline, this much at most is kept for confirms, acks and goodbyes.
const KEPT_FOR_GOODBYES: Duration = Duration::from_secs(1);

/// A consumer that consumes. Dropped, it stops at once: what is unfinished is delivered again.
#[must_use = "dropped, it stops at once"]
pub struct Running {
    consuming: Connection,
    publishing: Connection,
    endings: Endings,
    /// Takes deliveries until the consumer stops, then returns the consumer for its goodbye.
    taking: tokio::task::JoinHandle<Consumer>,
    tasks: TaskTracker,
    abandon: CancellationToken,
    drain: Duration,
    _abandon_on_drop: DropGuard,
}

/// Runs a consumer until `shutdown`, then drains it. See [`start`].
///
/// # Errors
/// See [`start`].
pub async fn run(
    address: Address,
    settings: ConsumerSettings,
    pool: PgPool,
    handler: impl Handler,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    start(address, settings, pool, handler, shutdown).await?.drained().await;
    Ok(())
}

/// Runs a consumer of batches until `shutdown`, then drains it. See [`start_batches`].
///
/// # Errors
/// See [`start`].
pub async fn run_batches(
    address: Address,
    settings: ConsumerSettings,
    pool: PgPool,
    handler: impl BatchHandler,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    start_batches(address, settings, pool, handler, shutdown).await?.drained().await;
    Ok(())
}

/// Runs a consumer without an inbox until `shutdown`, then drains it. See [`start_without_inbox`].
///
/// # Errors
/// See [`start_without_inbox`].
pub async fn run_without_inbox(
    address: Address,
    settings: ConsumerSettings,
    handler: impl Handler<()>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    start_without_inbox(address, settings, handler, shutdown).await?.drained().await;
    Ok(())
}

/// Starts a consumer, and returns when it consumes: its inbox stands in the database of `pool`, and
/// its queues in the broker. Both servers are waited for.
///
/// When `shutdown` is cancelled it takes no more deliveries; [`Running::drained`] waits for the rest.
///
/// # Errors
/// When the settings are wrong, or the inbox cannot be made in this database.
///
/// # Cancel safety
/// Nothing is left behind but what was declared and migrated.
pub async fn start(
    address: Address,
    settings: ConsumerSettings,
    pool: PgPool,
    handler: impl Handler,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    start_with_inbox(address, settings, pool, OneByOne(handler), 1, shutdown).await
}

/// Starts a consumer whose handler takes up to `settings.max_batch` messages in one transaction.
/// Otherwise as [`start`].
///
/// # Errors
/// See [`start`].
///
/// # Cancel safety
/// See [`start`].
pub async fn start_batches(
    address: Address,
    settings: ConsumerSettings,
    pool: PgPool,
    handler: impl BatchHandler,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    let batch = settings.max_batch;
    start_with_inbox(address, settings, pool, handler, batch, shutdown).await
}

/// Starts a consumer that has no database of its own, and returns when it consumes.
///
/// For a downstream that is idempotent by itself: one that sets something to a value, or whose store
/// knows the message's id. A message is acked when its handler has done its work and the broker has
/// the confirm; retries, rejections and draining are as with an inbox.
///
/// **Not promised, then: that a message takes effect once.** It is handled again whenever it is
/// delivered again: after a crash between the effect and the ack, after a reconnect, after a resend
/// because a confirm was lost, however long ago it was handled first, and even while it still is.
///
/// # Errors
/// When the settings are wrong.
///
/// # Cancel safety
/// Nothing is left behind but what was declared.
pub async fn start_without_inbox(
    address: Address,
    settings: ConsumerSettings,
    handler: impl Handler<()>,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    settings.check()?;
    let effect = WithoutInbox { handler, handler_timeout: settings.handler_timeout };
    // An id of any time: nothing is remembered, so nothing is forgotten.
    let (_, window) = watch::channel(Window::ALL);
    let abandon = CancellationToken::new().drop_guard();
    Ok(launch(address, settings, Work { effect, window, batch: 1 }, abandon, shutdown).await)
}

async fn start_with_inbox(
    address: Address,
    settings: ConsumerSettings,
    pool: PgPool,
    handler: impl BatchHandler,
    batch: usize,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    settings.check()?;
    let abandon = CancellationToken::new().drop_guard();
    let window = prepare_inbox(&pool, &settings, abandon.token()).await?;
    let inbox = Inbox::new(pool, settings.name.clone());
    let effect = WithInbox { handler, inbox, handler_timeout: settings.handler_timeout };
    Ok(launch(address, settings, Work { effect, window, batch }, abandon, shutdown).await)
}

/// What is done with deliveries.
struct Work<E> {
    effect: E,
    /// Which ids can take effect.
    window: watch::Receiver<Window>,
    /// How many are tried together at most.
    batch: usize,
}

async fn launch<E: Effect>(
    address: Address,
    settings: ConsumerSettings,
    work: Work<E>,
    abandon_on_drop: DropGuard,
    shutdown: CancellationToken,
) -> Running {
    let Work { effect, window, batch } = work;
    let abandon = abandon_on_drop.token().clone();
    let consuming_name = format!("{} consumes {}", settings.name, settings.queue);
    let consuming = Connection::start(address.clone(), &consuming_name, settings.topology());
    let publishing_name = format!("{} confirms", settings.name);
    let publishing = Connection::start(address, &publishing_name, Topology::confirming());
    let confirming = Publisher::start(&publishing, PublisherSettings::default());
    // Whatever came out of this broker fits into it; how much is held, the prefetch bounds.
    let copying = PublisherSettings { max_body_bytes: usize::MAX, ..PublisherSettings::default() };
    let copying = Publisher::start(&publishing, copying);
    let (patience, watching) = Patience::new(publishing.state(), settings.blocked_patience);
    tokio::spawn(abandon.clone().run_until_cancelled_owned(watching));
    consuming.ready().await;
    publishing.ready().await;

    let prefetch = settings.prefetch(batch);
    let subscription = Subscription { queue: settings.queue.clone(), prefetch, priority: None };
    let consumer = Consumer::start(&consuming, subscription);
    let endings = Endings {
        confirms: Confirms::start(confirming, &settings, patience),
        copying,
        complaints: Arc::default(),
        acks: consumer.acks(),
        stopping: shutdown,
    };
    let tasks = TaskTracker::new();
    let worker = Worker {
        effect,
        window,
        policy: settings.policy(),
        queue: settings.queue.clone(),
        endings: endings.clone(),
        complaints: Complaints::default(),
        tasks: tasks.clone(),
        abandon: abandon.clone(),
    };
    info!(
        consumer = %settings.name,
        queue = settings.queue,
        concurrency = settings.concurrency,
        prefetch,
        "consuming"
    );
    let bounds = Bounds::new(settings.concurrency, prefetch, batch);
    let taking = tokio::spawn(take(consumer, bounds, Arc::new(worker)));
    Running {
        consuming,
        publishing,
        endings,
        taking,
        tasks,
        abandon,
        drain: settings.drain,
        _abandon_on_drop: abandon_on_drop,
    }
}

/// Brings the inbox into the database and keeps it there.
async fn prepare_inbox(
    pool: &PgPool,
    settings: &ConsumerSettings,
    abandon: &CancellationToken,
) -> Result<watch::Receiver<Window>, Error> {
    let connections = pool.options().get_max_connections();
    if usize::try_from(connections).is_ok_and(|n| n < settings.concurrency) {
        warn!(
            connections,
            concurrency = settings.concurrency,
            "fewer database connections than handlers: some will wait for others"
        );
    }
    migrate(pool, &Inbox::migrator()).await.map_err(|e| Error::Inbox(e.into()))?;
    let partitions = Inbox::partitions(settings.retention);
    let (sender, window) = watch::channel(first_window(&partitions, pool).await);
    tokio::spawn(partitions.keep(pool.clone(), abandon.clone(), sender));
    Ok(window)
}

async fn first_window(partitions: &Partitions, pool: &PgPool) -> Window {
    let mut backoff = Backoff::new();
    loop {
        match partitions.maintain(pool).await {
            Ok(window) => return window,
            Err(error) if backoff.is_worth_a_line() => {
                warn!(%error, "waiting for the inbox's partitions");
            }
            Err(_) => {}
        }
        backoff.pause().await;
    }
}

/// How much is done at once, and how much is held.
struct Bounds {
    /// One for each handler that may run.
    slots: Arc<Semaphore>,
    /// One for each delivery that may be held. The broker's prefetch alone does not bound that:
    /// after a reconnect it knows nothing of what is still held from before.
    places: Arc<Semaphore>,
    batch: usize,
}

/// Room for a handler and for what it may take.
struct Room {
    slot: OwnedSemaphorePermit,
    places: OwnedSemaphorePermit,
}

impl Bounds {
    fn new(concurrency: usize, prefetch: u16, batch: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(concurrency)),
            places: Arc::new(Semaphore::new(prefetch.into())),
            batch,
        }
    }

    /// Waits for a slot and for at least one place. Called by one task only: nobody else takes what
    /// it sees.
    async fn room(&self) -> Room {
        const OPEN: &str = "the semaphores are never closed";
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect(OPEN);
        let mut places = Arc::clone(&self.places).acquire_owned().await.expect(OPEN);
        let more = self.places.available_permits().min(self.batch.saturating_sub(1));
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if let Ok(more) = Arc::clone(&self.places).try_acquire_many_owned(more) {
            places.merge(more);
        }
        Room { slot, places }
    }
}

/// Takes deliveries until the consumer stops, and starts a task for each group.
async fn take(
    mut consumer: Consumer,
    bounds: Bounds,
    worker: Arc<Worker<impl Effect>>,
) -> Consumer {
    let (stopping, abandon) = (worker.endings.stopping.clone(), worker.abandon.clone());
    let next = async {
        loop {
            let Room { slot, mut places } = bounds.room().await;
            let deliveries = consumer.next_batch(places.num_permits()).await;
            if deliveries.is_empty() {
                return;
            }
            let taken: Vec<Raw> = deliveries
                .into_iter()
                .map(|delivery| Raw { delivery, place: places.split(1) })
                .collect();
            drop(places);
            let worker = Arc::clone(&worker);
            let abandon = worker.abandon.clone();
            worker.tasks.clone().spawn(abandon.run_until_cancelled_owned(async move {
                worker.work(taken).await;
                drop(slot);
            }));
        }
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = abandon.cancelled() => {}
        () = next => {}
    }
    consumer
}

impl Running {
    /// Waits for the shutdown, lets running handlers finish, sends confirms and acks, and says
    /// goodbye to the broker, all within the drain deadline. What is left then is rolled back and
    /// delivered again.
    ///
    /// # Cancel safety
    /// Dropping the future stops the consumer at once.
    pub async fn drained(self) {
        let consumer = match self.taking.await {
            Ok(consumer) => consumer,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        };
        let started = Instant::now();
        let goodbyes = started + self.drain;
        let finished = goodbyes - KEPT_FOR_GOODBYES.min(self.drain / 4);
        self.tasks.close();
        info!(tasks = self.tasks.len(), "draining");
        if timeout_at(finished, self.tasks.wait()).await.is_err() {
            warn!(
                tasks = self.tasks.len(),
                "not finished in time: these messages are delivered again"
            );
            self.abandon.cancel();
            self.tasks.wait().await;
        }
        let left = || goodbyes.saturating_duration_since(Instant::now());
        self.endings.confirms.close(left()).await;
        self.endings.copying.close(left()).await;
        let goodbye = async {
            consumer.close().await;
            tokio::join!(self.consuming.close(), self.publishing.close());
        };
        if timeout_at(goodbyes, goodbye).await.is_err() {
            warn!("the broker did not say goodbye in time");
        }
        info!(drain_ms = clock::ms(started.elapsed()), "drained");
    }
}

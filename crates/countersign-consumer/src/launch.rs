//! From settings and a handler to a consumer that takes deliveries.

use std::sync::Arc;

use countersign_amqp::{Address, Connection, Consumer, Publisher, PublisherSettings, Subscription};
use countersign_postgres::Places;
use countersign_protocol::Topology;
use countersign_retry::Pulse;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::bounds::{Bounds, Room};
use crate::delivery::Raw;
use crate::effect::Effect;
use crate::ending::Endings;
use crate::ending::blocked_broker::BlockedBroker;
use crate::ending::confirms::Confirms;
use crate::ending::copies::Copies;
use crate::name_in_use::NameInUse;
use crate::running::Running;
use crate::settings::ConsumerSettings;
use crate::task_retry::Shared;
use crate::worker::Worker;

/// What a consumer does with its deliveries.
pub(crate) struct Work<E> {
    pub(crate) effect: E,
    /// Which ids can take effect.
    pub(crate) places: watch::Receiver<Places>,
    /// How many deliveries share a transaction at most.
    pub(crate) batch: usize,
    /// No other consumer of this process has it for another queue.
    pub(crate) name: NameInUse,
}

/// Connects, and starts to take deliveries when the consumer's queues stand in the broker.
pub(crate) async fn launch<E: Effect>(
    address: Address,
    settings: ConsumerSettings,
    work: Work<E>,
    abandon_on_drop: DropGuard,
    shutdown: CancellationToken,
) -> Running {
    let Work { effect, places, batch, name } = work;
    let abandon = abandon_on_drop.token().clone();
    let consuming_name = format!("{} consumes {}", settings.name, settings.queue);
    let consuming = Connection::start(address.clone(), &consuming_name, settings.topology());
    let publishing_name = format!("{} confirms", settings.name);
    let publishing = Connection::start(address, &publishing_name, Topology::confirming());
    let confirming = Publisher::start(&publishing, PublisherSettings::default());
    // A message that came out of this broker fits into it again; the prefetch bounds how many are held.
    let copying = PublisherSettings { max_body_bytes: usize::MAX, ..PublisherSettings::default() };
    let copying = Publisher::start(&publishing, copying);
    let (blocked, watching) = BlockedBroker::new(publishing.state(), settings.blocked_grace);
    tokio::spawn(abandon.clone().run_until_cancelled_owned(watching));
    consuming.ready().await;
    publishing.ready().await;
    let pulse = Pulse::new();
    for connection in [&consuming, &publishing] {
        tokio::spawn(connection.feed(&pulse));
    }

    let prefetch = settings.prefetch(batch);
    let subscription = Subscription { queue: settings.queue.clone(), prefetch, priority: None };
    let consumer = Consumer::start(&consuming, subscription);
    let endings = Endings {
        copies: Copies::new(copying, &pulse, shutdown.clone()),
        confirms: Confirms::start(confirming, &settings, blocked, &pulse),
        acks: consumer.acks(),
    };
    let tasks = TaskTracker::new();
    let worker = Worker {
        effect,
        places,
        policy: settings.retry_policy(),
        queue: settings.queue.clone(),
        endings: endings.clone(),
        trouble: Shared::new(&pulse),
        tasks: tasks.clone(),
        stopping: shutdown,
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
        pulse,
        _abandon_on_drop: abandon_on_drop,
        _name: name,
    }
}

/// Takes deliveries until the consumer stops, and starts a task for each group.
async fn take(
    mut consumer: Consumer,
    bounds: Bounds,
    worker: Arc<Worker<impl Effect>>,
) -> Consumer {
    let (stopping, abandon) = (worker.stopping.clone(), worker.abandon.clone());
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

//! From the broker into the ledger: messages are taken in merged batches, and each is acked when all of
//! it is recorded or in quarantine.

pub(crate) mod all_confirms;

pub(crate) mod confirms;

pub(crate) mod checks;

pub(crate) mod rolled_back;

pub(crate) mod quarantine;

mod held;

use std::time::Duration;

use bytes::Bytes;
use countersign_amqp::{Acks, Connection, Consumer, Delivery, DeliveryTag, Subscription};
use countersign_postgres::{Trouble, trouble};
use countersign_protocol::envelope::{Envelope, Header};
use countersign_protocol::{Refused, Unreadable, Window};
use countersign_retry::{Retry, Stopped};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::horizon::Horizons;
use crate::intake::held::{Held, Quarantining};
use crate::intake::quarantine::{Quarantine, Quarantined};
use crate::{ledger, upkeep};

/// How many entries one statement records, roughly: a message is not taken apart. More entries make the
/// statement no cheaper for each of them, and the messages behind it wait longer.
const MERGED_ENTRIES: usize = 5_000;

/// How many deliveries this process holds of each queue. Enough that messages of a single entry are
/// merged well, and few enough that full messages (150 kB each) fit into memory.
pub(crate) const PREFETCH: u16 = 100;

/// How many reasons are told of one envelope.
const REASONS_TOLD: usize = 10;

/// How long a replica that cannot reach the database holds its deliveries. A restart of Postgres takes
/// less, and a call on a silent connection ends after 15 s; with what follows, another replica records
/// within a minute.
const LET_GO: Duration = Duration::from_secs(30);

/// Reads one kind of envelope and records its entries.
pub(crate) trait Recorder: Send + Sync + 'static {
    /// What an envelope has 1 to 1,000 of.
    type Entry: Send + Sync;

    /// Reads an envelope: its entries in their order, and those that cannot be taken. `message_type` is
    /// the AMQP property `type` of the message.
    ///
    /// # Errors
    /// When nothing in it can be read.
    fn read(
        message_type: Option<&str>,
        body: &[u8],
        window: Window,
    ) -> Result<Read<Self::Entry>, Unreadable>;

    /// An envelope with only this entry, for the quarantine.
    fn print(entry: &Self::Entry) -> Vec<u8>;

    /// Records the entries, of which some or all may have been recorded before. Entries are recorded in
    /// the order in which they came, or together: when one is, all before it have been.
    fn record(
        &self,
        entries: &[Self::Entry],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The crash point between recording and acking.
    fn crash_point();
}

/// What was read from an envelope.
#[derive(Debug)]
pub(crate) struct Read<E> {
    /// The entries that can be taken.
    pub(crate) entries: Vec<E>,
    /// The entries that cannot, if there are any.
    pub(crate) refused: Option<RefusedEntries>,
}

/// The entries of an envelope that cannot be taken.
#[derive(Debug)]
pub(crate) struct RefusedEntries {
    /// An envelope with these alone.
    pub(crate) envelope: Vec<u8>,
    /// Why not, for a person.
    pub(crate) reason: String,
}

impl RefusedEntries {
    /// What is refused of this envelope. However many entries it is, it is one message for the quarantine:
    /// a sender of garbage costs as many publishes as it sends.
    pub(crate) fn of<H: Header>(envelope: &Envelope<H>, refused: &[Refused]) -> Option<Self> {
        let [first, others @ ..] = refused else { return None };
        let mut reason = first.reason.clone();
        if !others.is_empty() {
            let mut reasons: Vec<&str> = Vec::new();
            for Refused { reason, .. } in refused {
                if !reasons.contains(&reason.as_str()) && reasons.len() < REASONS_TOLD {
                    reasons.push(reason);
                }
            }
            let (refused, all) = (refused.len(), refused.len() + envelope.entries.len());
            reason = format!("{refused} of {all} entries: {}", reasons.join("; "));
        }
        Some(Self { envelope: envelope.encode_refused(refused), reason })
    }
}

/// Takes in the messages of one queue.
#[derive(Debug)]
pub(crate) struct Intake<R> {
    /// Reads and records the messages.
    pub(crate) recorder: R,
    /// The queue, for the log and the quarantine.
    pub(crate) queue: String,
    /// Takes the messages and entries that cannot be read or recorded.
    pub(crate) quarantine: Quarantine,
    /// Tells the window of ids that can be taken.
    pub(crate) horizons: Horizons,
    /// The database whose partitions are made when the recorder lacks one.
    pub(crate) ledger: ledger::Ledger,
}

impl<R: Recorder> Intake<R> {
    /// Takes in messages until `shutdown`, then finishes the batch in hand.
    ///
    /// The consumer is not cancelled first: the broker would start the next consumer of a shard at once,
    /// before the deliveries that this one still holds (reproduced on RabbitMQ 3.10.8). The channel is
    /// closed when the batch is done, and the broker gives the deliveries that are not acked to the next
    /// consumer in their old order.
    pub(crate) async fn run(
        self,
        connection: Connection,
        subscription: Subscription,
        shutdown: CancellationToken,
    ) {
        loop {
            let mut consumer = Consumer::start(&connection, subscription.clone());
            let taken = self.take(&mut consumer, &shutdown).await;
            consumer.close().await;
            let Err(Halt::LetGo) = taken else { return };
            warn!(
                queue = self.queue,
                "this replica cannot reach its database and gives the queue up: another replica may have it"
            );
            let mut retry = Retry::new("reach the database").felt_by(self.ledger.pulse());
            while let Err(error) = self.ledger.pool().answers().await {
                if retry.wait(&error, &shutdown).await.is_err() {
                    return;
                }
            }
            retry.worked();
        }
    }

    /// Takes in what this consumer receives, until it ends.
    async fn take(
        &self,
        consumer: &mut Consumer,
        shutdown: &CancellationToken,
    ) -> Result<(), Halt> {
        let acks = consumer.acks();
        let most = usize::from(PREFETCH);
        let mut quarantining = Quarantining::default();
        let taken = loop {
            let batch = shutdown.run_until_cancelled(consumer.next_batch(most)).await;
            let Some(batch) = batch.filter(|batch| !batch.is_empty()) else { break Ok(()) };
            if let Err(halt) = self.take_in(batch, &acks, &mut quarantining, shutdown).await {
                info!(
                    queue = self.queue,
                    "this replica stops with deliveries in hand: the broker gives them to the next consumer"
                );
                break Err(halt);
            }
        };
        if let Err(Halt::LetGo) = taken {
            quarantining.leave();
        }
        quarantining.finish().await;
        taken
    }

    async fn take_in(
        &self,
        batch: Vec<Delivery>,
        acks: &Acks,
        quarantining: &mut Quarantining,
        shutdown: &CancellationToken,
    ) -> Result<(), Halt> {
        let mut deliveries = batch.into_iter();
        loop {
            let _in_hand =
                self.ledger.pulse().begin(format!("record what came through {}", self.queue));
            let window = self.window(shutdown).await?;
            let mut merged = self.merge(&mut deliveries, window);
            if merged.is_empty() {
                return Ok(());
            }
            let refused = self.record(&merged.entries, shutdown).await?;
            R::crash_point();
            let held = merged.hold(refused);
            for tag in merged.tags.into_iter().map(|(tag, _)| tag) {
                if !held.tags.contains(&tag) {
                    acks.ack(tag);
                }
            }
            if let Some(tag) = held.tags.first() {
                quarantining.begin(*tag, self.quarantine(held, acks.clone(), shutdown.clone()));
            }
        }
    }

    /// Puts what is held into quarantine, and acks it then. What can be recorded does not wait for the quarantine:
    /// a broker that does not take one bad entry would otherwise hold up the confirms of everybody. The
    /// prefetch bounds how many wait.
    fn quarantine(
        &self,
        held: Held,
        acks: Acks,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<R> {
        let quarantine = self.quarantine.clone();
        let in_hand =
            self.ledger.pulse().begin(format!("quarantine what came through {}", self.queue));
        async move {
            let _in_hand = in_hand;
            // The broker gives what is not acked to the next consumer.
            let Ok(()) = quarantine.keep(&held.things, &shutdown).await else { return };
            for tag in held.tags {
                acks.ack(tag);
            }
        }
    }

    /// The window of ids that can be taken. While the clocks disagree, the deliveries in hand are held.
    async fn window(&self, shutdown: &CancellationToken) -> Result<Window, Stopped> {
        let mut retry = Retry::new("tell which messages are too old");
        loop {
            match self.horizons.now() {
                Ok(window) => {
                    retry.worked();
                    return Ok(window);
                }
                Err(why) => retry.wait(&why, shutdown).await?,
            }
        }
    }

    /// Reads deliveries until there are enough entries for one statement.
    fn merge(
        &self,
        deliveries: &mut impl Iterator<Item = Delivery>,
        window: Window,
    ) -> Merged<R::Entry> {
        let mut merged = Merged::default();
        while merged.entries.len() < MERGED_ENTRIES
            && let Some(delivery) = deliveries.next()
        {
            let message_type = delivery.properties.kind.as_deref();
            let refused = match R::read(message_type, &delivery.body, window) {
                Ok(Read { entries, refused }) => {
                    merged.entries.extend(entries);
                    refused.map(|refused| (Bytes::from(refused.envelope), refused.reason))
                }
                Err(why) => Some((delivery.body, why.to_string())),
            };
            merged.tags.push((delivery.tag, merged.entries.len()));
            let Some((body, reason)) = refused else { continue };
            let source = self.queue.clone();
            let app_id = delivery.properties.app_id;
            merged.held.things.push(Quarantined { body, reason, source, app_id });
            merged.held.tags.push(delivery.tag);
        }
        merged
    }

    /// Records all entries, but for those that the database refuses: these are for the quarantine, each with its
    /// place.
    ///
    /// While the database is away, the deliveries in hand are held for half a minute. A requeued delivery would only come
    /// back at once, and RabbitMQ 4.0 to 4.2 count that towards dropping the message.
    async fn record(
        &self,
        entries: &[R::Entry],
        shutdown: &CancellationToken,
    ) -> Result<Vec<(usize, Quarantined)>, Halt> {
        let mut refused_entries = Vec::new();
        let mut ranges = vec![(0, entries)];
        while let Some((place, entries)) = ranges.pop() {
            let Err(refused) = self.record_or_be_refused(entries, shutdown).await? else {
                continue;
            };
            if let [culprit] = entries {
                let thing = Quarantined {
                    body: R::print(culprit).into(),
                    reason: format!("the database refuses it: {refused}"),
                    source: self.queue.clone(),
                    app_id: None,
                };
                refused_entries.push((place, thing));
            } else {
                debug!(%refused, entries = entries.len(), "the database refuses a batch of entries: this replica halves it");
                let (first, second) = entries.split_at(entries.len() / 2);
                ranges.extend([(place + first.len(), second), (place, first)]);
            }
        }
        Ok(refused_entries)
    }

    /// Records the entries as soon as there is a database that does, or returns why it never will.
    ///
    /// When nothing answers this replica for [`LET_GO`], it lets the deliveries go, once for each such
    /// outage: its way to the database may be gone for good while that of another replica is not, and as
    /// long as this one holds the shard, the other gets none of it.
    async fn record_or_be_refused(
        &self,
        entries: &[R::Entry],
        shutdown: &CancellationToken,
    ) -> Result<Result<(), sqlx::Error>, Halt> {
        if entries.is_empty() {
            return Ok(Ok(()));
        }
        let mut retry = Retry::new("record what came through a queue");
        let mut made_partitions = false;
        let began = Instant::now();
        loop {
            let error = match self.recorder.record(entries).await {
                Ok(()) => {
                    retry.worked();
                    return Ok(Ok(()));
                }
                Err(error) => error,
            };
            if trouble(&error) == Trouble::Data {
                // An id within the window is no mistake of its sender: its partition has to be made.
                if made_partitions || !ledger::lacks_partition(&error) {
                    return Ok(Err(error));
                }
                made_partitions = upkeep::make_partitions(&self.ledger).await;
            }
            let is_away = trouble(&error) == Trouble::Again && began.elapsed() >= LET_GO;
            if is_away && self.ledger.pool().answers().await.is_err() {
                return Err(Halt::LetGo);
            }
            retry.wait(&error, shutdown).await?;
        }
    }
}

/// Why a consumer ends with deliveries in hand.
enum Halt {
    /// The process stops.
    Stopped,
    /// The database is away from this replica.
    LetGo,
}

impl From<Stopped> for Halt {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// The entries that one statement records, and the deliveries they came in.
struct Merged<E> {
    entries: Vec<E>,
    /// The deliveries, and how many entries they have up to the end of each.
    tags: Vec<(DeliveryTag, usize)>,
    held: Held,
}

impl<E> Default for Merged<E> {
    fn default() -> Self {
        Self { entries: Vec::new(), tags: Vec::new(), held: Held::default() }
    }
}

impl<E> Merged<E> {
    fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Takes out what is held for the quarantine: these entries, too, each with its place.
    fn hold(&mut self, refused: Vec<(usize, Quarantined)>) -> Held {
        let mut held = std::mem::take(&mut self.held);
        for (place, thing) in refused {
            let delivery = self.tags.partition_point(|(_, end)| *end <= place);
            let tag = self.tags.get(delivery).map(|(tag, _)| *tag);
            held.tags.extend(tag.filter(|tag| !held.tags.contains(tag)));
            held.things.push(thing);
        }
        held
    }
}

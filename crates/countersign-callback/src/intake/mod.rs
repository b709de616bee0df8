//! What confirms and checks have in common: messages taken in merged batches, each acked when all of
//! it is stored or in quarantine.

pub(crate) mod confirms;

pub(crate) mod checks;

pub(crate) mod rolled_back;

pub(crate) mod quarantine;

use bytes::Bytes;
use countersign_amqp::{Acks, Consumer, Delivery, DeliveryTag};
use countersign_postgres::{Trouble, trouble};
use countersign_protocol::{Refused, Unreadable, Window};
use countersign_retry::{Retry, Stopped};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::horizon::Horizons;
use crate::intake::quarantine::{Quarantine, Quarantined};
use crate::{ledger, upkeep};

/// How many entries one statement takes, roughly: a message is not taken apart. More make no
/// difference to Postgres, and a longer wait for everybody else.
const MERGED_ENTRIES: usize = 5_000;

/// How many deliveries this process holds of each queue. Enough that messages of a single entry are
/// merged well, and little enough that full ones (150 kB each) fit into memory.
pub(crate) const PREFETCH: u16 = 100;

/// One kind of envelope, and what is done with its entries.
pub(crate) trait Kind: Send + Sync + 'static {
    /// What one envelope holds several of.
    type Entry: Send + Sync;

    /// Reads an envelope, whose property `type` is given: its entries in their order, and those that
    /// cannot be taken.
    ///
    /// # Errors
    /// When nothing in it can be read.
    fn read(
        kind: Option<&str>,
        body: &[u8],
        window: Window,
    ) -> Result<Read<Self::Entry>, Unreadable>;

    /// An envelope with only this entry, for the quarantine.
    fn print(entry: &Self::Entry) -> Vec<u8>;

    /// Stores the entries. They may have been stored before, in part or all of them. Entries are
    /// stored in the order in which they came, or together: when one is, all before it have been.
    fn store(
        &self,
        entries: &[Self::Entry],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The crash point between storing and acking.
    fn stored();
}

/// What was read from an envelope.
#[derive(Debug)]
pub(crate) struct Read<E> {
    /// What can be taken.
    pub(crate) entries: Vec<E>,
    /// What cannot: an envelope with only that entry, and the reason.
    pub(crate) refused: Vec<Refused>,
}

/// Takes in the messages of one queue.
#[derive(Debug)]
pub(crate) struct Intake<K> {
    /// What they are.
    pub(crate) kind: K,
    /// Where they come from.
    pub(crate) queue: String,
    /// Where those go that cannot be taken.
    pub(crate) quarantine: Quarantine,
    /// Which ids can be taken.
    pub(crate) horizons: Horizons,
    /// Where they are stored.
    pub(crate) ledger: ledger::Ledger,
    /// When to stop.
    pub(crate) shutdown: CancellationToken,
}

impl<K: Kind> Intake<K> {
    /// Takes in messages until `shutdown`, then finishes the batch in hand.
    ///
    /// The consumer is not cancelled first: the next one of a shard would go on at once, before what
    /// this one still holds (reproduced). The channel is closed when the batch is done, and what is
    /// not acked then goes to the next consumer in its old order.
    pub(crate) async fn run(self, mut consumer: Consumer) {
        let acks = consumer.acks();
        let most = usize::from(PREFETCH);
        loop {
            let batch = self.shutdown.run_until_cancelled(consumer.next_batch(most)).await;
            let Some(batch) = batch.filter(|batch| !batch.is_empty()) else { break };
            if self.take_in(batch, &acks).await == Err(Stopped) {
                info!(queue = self.queue, "stopping with deliveries in hand: they go back");
                break;
            }
        }
        consumer.close().await;
    }

    async fn take_in(&self, batch: Vec<Delivery>, acks: &Acks) -> Result<(), Stopped> {
        let mut deliveries = batch.into_iter();
        loop {
            let merged = self.merge(&mut deliveries);
            if merged.tags.is_empty() {
                return Ok(());
            }
            self.quarantine.keep(&merged.refused, &self.shutdown).await?;
            self.store(&merged.entries).await?;
            K::stored();
            for tag in merged.tags {
                acks.ack(tag);
            }
        }
    }

    /// Reads deliveries until there are enough entries for one statement.
    fn merge(&self, deliveries: &mut impl Iterator<Item = Delivery>) -> Merged<K::Entry> {
        let window = self.horizons.now();
        let mut merged = Merged { entries: Vec::new(), refused: Vec::new(), tags: Vec::new() };
        while merged.entries.len() < MERGED_ENTRIES
            && merged.refused.len() < MERGED_ENTRIES
            && let Some(delivery) = deliveries.next()
        {
            let app_id = delivery.properties.app_id.clone();
            let quarantined = |body, reason| Quarantined {
                body,
                reason,
                source: self.queue.clone(),
                app_id: app_id.clone(),
            };
            let kind = delivery.properties.kind.as_deref();
            match K::read(kind, &delivery.body, window) {
                Ok(read) => {
                    merged.entries.extend(read.entries);
                    merged.refused.extend(read.refused.into_iter().map(
                        |Refused { envelope, reason }| quarantined(Bytes::from(envelope), reason),
                    ));
                }
                Err(why) => merged.refused.push(quarantined(delivery.body, why.to_string())),
            }
            merged.tags.push(delivery.tag);
        }
        merged
    }

    /// Stores all entries, but for those that the database refuses: these go to quarantine.
    ///
    /// While the database is away, what is in hand is held. Requeueing it would only make it come
    /// back at once, and RabbitMQ 4.0 to 4.2 count that towards dropping the message.
    async fn store(&self, entries: &[K::Entry]) -> Result<(), Stopped> {
        let mut ranges = vec![entries];
        while let Some(entries) = ranges.pop() {
            let Err(refused) = self.store_or_be_refused(entries).await? else { continue };
            if let [culprit] = entries {
                let thing = Quarantined {
                    body: K::print(culprit).into(),
                    reason: format!("the database refuses it: {refused}"),
                    source: self.queue.clone(),
                    app_id: None,
                };
                self.quarantine.keep(&[thing], &self.shutdown).await?;
            } else {
                debug!(%refused, entries = entries.len(), "the database refuses a batch: halving it");
                let (first, second) = entries.split_at(entries.len() / 2);
                ranges.extend([second, first]);
            }
        }
        Ok(())
    }

    /// Stores the entries as soon as there is a database that does, or returns why it never will.
    async fn store_or_be_refused(
        &self,
        entries: &[K::Entry],
    ) -> Result<Result<(), sqlx::Error>, Stopped> {
        if entries.is_empty() {
            return Ok(Ok(()));
        }
        let mut retry = Retry::new("store what was said");
        let mut made_partitions = false;
        loop {
            let error = match self.kind.store(entries).await {
                Ok(()) => {
                    retry.worked();
                    return Ok(Ok(()));
                }
                Err(error) => error,
            };
            if trouble(&error) == Trouble::Data {
                // Every id within the window should have a partition: see to that first.
                if made_partitions || !ledger::lacks_partition(&error) {
                    return Ok(Err(error));
                }
                made_partitions = upkeep::make_partitions(&self.ledger).await;
            }
            retry.wait(&error, &self.shutdown).await?;
        }
    }
}

/// As much as one statement takes.
struct Merged<E> {
    entries: Vec<E>,
    refused: Vec<Quarantined>,
    tags: Vec<DeliveryTag>,
}

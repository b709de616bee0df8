//! Confirms: what consumers say of messages, recorded; and the markers that come through their shards.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::time::Duration;

use countersign_protocol::confirm::{ConfirmHeader, ConfirmedMessage};
use countersign_protocol::{
    Attempt, Confirm, Marker, MessageId, Name, Outcome, UnixMillis, Unreadable, Window, marker,
};
use tracing::{debug, warn};

use crate::intake::{Read, Recorder, RefusedEntries};
use crate::ledger::{Ledger, Reached};
use crate::log;
use crate::rules::budget::confirmed_canaries;
use crate::rules::overdue::{Report, Transition, Word};
use crate::rules::verdict;

/// Records confirms.
#[derive(Clone, Debug)]
pub(crate) struct Confirms {
    /// Where confirms are recorded.
    pub(crate) ledger: Ledger,
    /// The shard that the confirms come through.
    pub(crate) shard: u16,
}

/// What comes through a confirm shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A consumer reports the outcome of a message.
    Confirm {
        /// The consumer.
        consumer: Name,
        /// The message, and what became of it.
        message: ConfirmedMessage,
    },
    /// A marker of this service: when it is noted, all that came before it is recorded.
    Marker(Marker),
}

impl Recorder for Confirms {
    type Entry = Entry;

    fn read(
        message_type: Option<&str>,
        body: &[u8],
        window: Window,
    ) -> Result<Read<Entry>, Unreadable> {
        if message_type == Some(marker::KIND) {
            let entries = vec![Entry::Marker(Marker::read(body)?)];
            return Ok(Read { entries, refused: None });
        }
        let (confirm, refused) = Confirm::read(body, window)?;
        let refused = RefusedEntries::of(&confirm, &refused);
        let consumer = confirm.header.consumer;
        Ok(Read {
            refused,
            entries: confirm
                .entries
                .into_iter()
                .map(|message| Entry::Confirm { consumer: consumer.clone(), message })
                .collect(),
        })
    }

    fn print(entry: &Entry) -> Vec<u8> {
        match entry {
            Entry::Confirm { consumer, message } => {
                let header = ConfirmHeader { consumer: consumer.clone() };
                Confirm::new(header, vec![message.clone()]).encode()
            }
            Entry::Marker(marker) => marker.encode(),
        }
    }

    fn crash_point() {
        fail::fail_point!("callback.recorded", |_| std::process::abort());
    }

    /// The batch is recorded first, and only then the overdue rows that it concerns are looked for: after
    /// the commit, so that of a confirm and a check at the same moment one sees the other. Mostly there
    /// are no such rows, and two statements were enough. If the process dies between them, the broker
    /// delivers the batch again, and the rows are looked for then.
    ///
    /// Markers come last: all that came before them is committed by then.
    async fn record(&self, entries: &[Entry]) -> Result<(), sqlx::Error> {
        let batch = Batch::of(entries);
        let new = self.ledger.confirm(&batch.confirmations).await?;
        self.ledger.report(&batch.reports).await?;
        self.ledger.progressed(&batch.reached(new), CLOCKS_DIFFER).await?;
        self.resolve(&batch).await?;
        self.note_returned(&batch.markers).await
    }
}

impl Confirms {
    /// Closes or parks the overdue rows that the batch concerns.
    async fn resolve(&self, batch: &Batch) -> Result<(), sqlx::Error> {
        let concerned = self.ledger.concerned(&batch.decisive).await?;
        if concerned.is_empty() {
            return Ok(());
        }
        let Some(mut taken) = self.ledger.take(&concerned).await? else { return Ok(()) };
        let transitions: Vec<Transition> = taken
            .rows
            .iter()
            .filter_map(|(overdue, recorded)| verdict::after_confirm(overdue, recorded))
            .collect();
        taken.add_canaries(&confirmed_canaries(&transitions)).await?;
        taken.write(&transitions).await?;
        transitions.iter().for_each(log::transition);
        Ok(())
    }

    /// Notes the markers that came back. A marker that no replica sent through this shard proves nothing
    /// about the shard.
    async fn note_returned(&self, markers: &[Marker]) -> Result<(), sqlx::Error> {
        let (ours, strange): (Vec<Marker>, Vec<Marker>) =
            markers.iter().partition(|marker| marker.shard == self.shard);
        let known = self.ledger.markers_returned(&ours).await?;
        for Marker { shard, number } in
            strange.iter().chain(ours.iter().filter(|marker| !known.contains(marker)))
        {
            warn!(
                shard,
                number,
                came_through = self.shard,
                "ignored a marker that no replica sent through this shard; does another program publish to it?"
            );
        }
        debug!(shard = self.shard, count = known.len(), "markers came back");
        Ok(())
    }
}

/// The entries of one batch, sorted by the table they go to.
#[derive(Debug, Default)]
struct Batch {
    /// The publish of the message that the consumer had in hand, by message and consumer.
    confirmations: BTreeMap<(MessageId, Name), Option<Attempt>>,
    reports: BTreeMap<(MessageId, Name), Report>,
    /// The messages that a consumer has confirmed or rejected: an overdue row may change.
    decisive: Vec<MessageId>,
    markers: Vec<Marker>,
    /// What was reached, by consumer, upstream and queue.
    furthest: BTreeMap<(Name, Name, String), Furthest>,
}

/// How far a consumer is with the messages of one upstream that it gets through one queue.
#[derive(Debug, Default)]
struct Furthest {
    /// The newest publish that can be believed.
    published_at: Option<UnixMillis>,
    /// How many messages were processed.
    processed: u64,
}

/// How much later than its confirm a message may say that it was published, and be believed: the clocks of
/// upstreams and consumers that are set by NTP differ by less. A time that is believed hides the backlog
/// behind the consumer for as long at most.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

impl Batch {
    fn of(entries: &[Entry]) -> Self {
        let mut batch = Self::default();
        batch.decisive.reserve(entries.len());
        for entry in entries {
            let (consumer, message) = match entry {
                Entry::Confirm { consumer, message } => (consumer, message),
                Entry::Marker(marker) => {
                    batch.markers.push(*marker);
                    continue;
                }
            };
            batch.note_reached(consumer, message);
            let word = match &message.outcome {
                Outcome::Processed => {
                    batch.decisive.push(message.id);
                    // Two confirms of a message in one batch: the earlier publish was enough.
                    let attempt = batch
                        .confirmations
                        .entry((message.id, consumer.clone()))
                        .or_insert(message.attempt);
                    *attempt = (*attempt).min(message.attempt);
                    continue;
                }
                Outcome::Rejected { reason } => {
                    batch.decisive.push(message.id);
                    (Word::Rejected, reason)
                }
                Outcome::Retrying { until, reason } => (Word::Retrying { until: *until }, reason),
            };
            batch.report(message.id, consumer, word);
        }
        batch
    }

    /// Notes that the consumer has had the message in hand, whatever its outcome.
    fn note_reached(&mut self, consumer: &Name, message: &ConfirmedMessage) {
        let (Some(upstream), Some(queue)) = (&message.upstream, &message.queue) else { return };
        let key = (consumer.clone(), upstream.clone(), queue.clone());
        let furthest = self.furthest.entry(key).or_default();
        furthest.published_at = furthest.published_at.max(believed(message));
        furthest.processed += u64::from(message.outcome == Outcome::Processed);
    }

    /// How far consumers are, when `new` of the confirmations are recorded for the first time. Which of
    /// them were recorded before is not known: each queue counts as many fewer.
    fn reached(&self, new: u64) -> Vec<Reached> {
        let known = u64::try_from(self.confirmations.len()).unwrap_or(u64::MAX).saturating_sub(new);
        let entries: u64 = self.furthest.values().map(|furthest| furthest.processed).sum();
        let twice = entries.saturating_sub(u64::try_from(self.confirmations.len()).unwrap_or(0));
        let reached =
            |((consumer, upstream, queue), furthest): (&(Name, Name, String), &Furthest)| Reached {
                consumer: consumer.clone(),
                queue: queue.clone(),
                upstream: upstream.clone(),
                up_to: furthest.published_at,
                confirms: furthest.processed.saturating_sub(known.saturating_add(twice)),
            };
        self.furthest.iter().map(reached).collect()
    }

    /// Keeps one report for each message and consumer: the first rejection, or else the last report.
    fn report(&mut self, id: MessageId, consumer: &Name, (word, reason): (Word, &String)) {
        let report = Report { consumer: consumer.clone(), word, reason: reason.clone() };
        match self.reports.entry((id, consumer.clone())) {
            Place::Vacant(place) => {
                place.insert(report);
            }
            Place::Occupied(mut place) if place.get().word != Word::Rejected => {
                place.insert(report);
            }
            Place::Occupied(_) => {}
        }
    }
}

/// When a message was published, if it can be so: no message is confirmed before. An upstream whose clock
/// was ahead once would otherwise switch the protection of every backlog off, until its time comes.
fn believed(message: &ConfirmedMessage) -> Option<UnixMillis> {
    let latest = message.at.map(|confirmed_at| confirmed_at.after(CLOCKS_DIFFER));
    message.published_at.filter(|at| latest.is_none_or(|latest| *at <= latest))
}

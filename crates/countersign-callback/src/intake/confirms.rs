//! Confirms: what consumers say, recorded.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use countersign_protocol::confirm::{ConfirmHeader, ConfirmedMessage};
use countersign_protocol::{
    Confirm, Marker, MessageId, Name, Outcome, UnixMillis, Unreadable, Window, marker,
};
use tracing::{debug, warn};

use crate::intake::{Kind, Read};
use crate::ledger::{Confirmation, Ledger, Reached};
use crate::log;
use crate::rules::overdue::{Report, Transition, Word};
use crate::rules::verdict;

/// Records confirms.
#[derive(Clone, Debug)]
pub(crate) struct Confirms {
    /// Where.
    pub(crate) ledger: Ledger,
    /// Of which shard.
    pub(crate) shard: u16,
}

/// What comes through a confirm shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A consumer's word.
    Heard(Heard),
    /// Our own mark: what came before it has been recorded when it is.
    Marker(Marker),
}

/// An entry of a confirm, with whose word it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Whose word it is.
    pub(crate) consumer: Name,
    /// What it says.
    pub(crate) message: ConfirmedMessage,
}

impl Kind for Confirms {
    type Entry = Item;

    fn read(kind: Option<&str>, body: &[u8], window: Window) -> Result<Read<Item>, Unreadable> {
        if kind == Some(marker::KIND) {
            let entries = vec![Item::Marker(Marker::read(body)?)];
            return Ok(Read { entries, refused: Vec::new() });
        }
        let (Confirm { header: ConfirmHeader { consumer }, entries }, refused) =
            Confirm::read(body, window)?;
        Ok(Read {
            refused,
            entries: entries
                .into_iter()
                .map(|message| Item::Heard(Heard { consumer: consumer.clone(), message }))
                .collect(),
        })
    }

    fn print(item: &Item) -> Vec<u8> {
        match item {
            Item::Heard(Heard { consumer, message }) => {
                let header = ConfirmHeader { consumer: consumer.clone() };
                Confirm::new(header, vec![message.clone()]).encode()
            }
            Item::Marker(marker) => marker.encode(),
        }
    }

    fn stored() {
        fail::fail_point!("callback.recorded", |_| std::process::abort());
    }

    /// First what was said is recorded, then the overdue rows that it concerns are looked for: after
    /// the commit, so that of a confirm and a check at the same moment one sees the other.
    /// Mostly there are none, and that was two statements. If the process dies between them, the
    /// messages come again, and the rows are looked for then.
    ///
    /// Markers come last: everything before them is committed by then.
    async fn store(&self, items: &[Item]) -> Result<(), sqlx::Error> {
        let said = Said::by(items);
        self.ledger.confirm(&said.confirmations).await?;
        self.ledger.report(&said.reports).await?;
        self.ledger.progressed(&said.reached()).await?;
        self.resolve(&said).await?;
        self.note_returned(&said.markers).await
    }
}

impl Confirms {
    /// Closes or parks the overdue rows that what was said concerns.
    async fn resolve(&self, said: &Said) -> Result<(), sqlx::Error> {
        let concerned = self.ledger.concerned(&said.decisive).await?;
        if concerned.is_empty() {
            return Ok(());
        }
        let Some(taken) = self.ledger.take(&concerned).await? else { return Ok(()) };
        let transitions: Vec<Transition> = taken
            .rows
            .iter()
            .filter_map(|(overdue, recorded)| verdict::after_confirm(overdue, recorded))
            .collect();
        taken.write(&transitions).await?;
        transitions.iter().for_each(log::transition);
        Ok(())
    }

    /// A marker that nobody sent through this shard proves nothing about it.
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
                "ignored a marker that was not sent through this shard; who publishes to it?"
            );
        }
        debug!(shard = self.shard, count = known.len(), "markers came back");
        Ok(())
    }
}

/// A batch, sorted out.
#[derive(Debug, Default)]
struct Said {
    confirmations: Vec<Confirmation>,
    reports: BTreeMap<(MessageId, Name), Report>,
    /// The messages that somebody has confirmed or rejected: an overdue row may change.
    decisive: Vec<MessageId>,
    markers: Vec<Marker>,
    /// The newest publish by consumer, upstream and queue.
    furthest: BTreeMap<(Name, Name, String), Option<UnixMillis>>,
}

impl Said {
    fn by(items: &[Item]) -> Self {
        let mut said = Self::default();
        said.confirmations.reserve(items.len());
        said.decisive.reserve(items.len());
        for item in items {
            let Heard { consumer, message } = match item {
                Item::Heard(heard) => heard,
                Item::Marker(marker) => {
                    said.markers.push(*marker);
                    continue;
                }
            };
            said.note_reached(consumer, message);
            let word = match &message.outcome {
                Outcome::Processed => {
                    said.decisive.push(message.id);
                    said.confirmations.push(Confirmation {
                        message_id: message.id,
                        consumer: consumer.clone(),
                        attempt: message.attempt,
                    });
                    continue;
                }
                Outcome::Rejected { reason } => {
                    said.decisive.push(message.id);
                    (Word::Rejected, reason)
                }
                Outcome::Retrying { until, reason } => (Word::Retrying { until: *until }, reason),
            };
            said.report(message.id, consumer, word);
        }
        said
    }

    /// Whatever became of it: the consumer has had it in hand.
    fn note_reached(&mut self, consumer: &Name, message: &ConfirmedMessage) {
        let (Some(upstream), Some(queue)) = (&message.upstream, &message.queue) else { return };
        let key = (consumer.clone(), upstream.clone(), queue.clone());
        let furthest = self.furthest.entry(key).or_default();
        *furthest = (*furthest).max(message.published_at);
    }

    fn reached(&self) -> Vec<Reached> {
        let reached = |((consumer, upstream, queue), up_to): (&(Name, Name, String), &_)| Reached {
            consumer: consumer.clone(),
            queue: queue.clone(),
            upstream: upstream.clone(),
            up_to: *up_to,
        };
        self.furthest.iter().map(reached).collect()
    }

    /// The first rejection stands; otherwise the last word does.
    fn report(&mut self, id: MessageId, consumer: &Name, (word, reason): (Word, &String)) {
        let report = Report { consumer: consumer.clone(), word, reason: reason.clone() };
        match self.reports.entry((id, consumer.clone())) {
            Entry::Vacant(place) => {
                place.insert(report);
            }
            Entry::Occupied(mut place) if place.get().word != Word::Rejected => {
                place.insert(report);
            }
            Entry::Occupied(_) => {}
        }
    }
}

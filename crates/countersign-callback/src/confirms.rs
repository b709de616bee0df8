//! Confirms: what consumers say, recorded.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use countersign_protocol::confirm::ConfirmedMessage;
use countersign_protocol::{Confirm, Horizon, MessageId, Name, Outcome, Unreadable};

use crate::intake::{Kind, Read};
use crate::ledger::{Confirmation, Ledger};
use crate::log;
use crate::overdue::{Change, Report, Word};
use crate::verdict;

/// Records confirms.
#[derive(Clone, Debug)]
pub(crate) struct Confirms {
    /// Where.
    pub(crate) ledger: Ledger,
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
    type Entry = Heard;

    fn read(body: &[u8], horizon: Horizon) -> Result<Read<Heard>, Unreadable> {
        let (Confirm { consumer, confirms }, refused) = Confirm::read(body, horizon)?;
        let refused = refused.into_iter().map(|refused| {
            let body =
                format!(r#"{{"v":1,"consumer":"{consumer}","confirms":[{}]}}"#, refused.entry);
            (body, refused.reason)
        });
        Ok(Read {
            refused: refused.collect(),
            entries: confirms
                .into_iter()
                .map(|message| Heard { consumer: consumer.clone(), message })
                .collect(),
        })
    }

    fn print(entry: &Heard) -> Vec<u8> {
        Confirm { consumer: entry.consumer.clone(), confirms: vec![entry.message.clone()] }.encode()
    }

    fn stored() {
        fail::fail_point!("callback.recorded", |_| std::process::abort());
    }

    /// First what was said is recorded, then the overdue rows that it concerns are looked for: after
    /// the commit, so that of a confirm and a check at the same moment one sees the other.
    /// Mostly there are none, and that was two statements. If the process dies between them, the
    /// messages come again, and the rows are looked for then.
    async fn store(&self, entries: &[Heard]) -> Result<(), sqlx::Error> {
        let said = Said::by(entries);
        self.ledger.confirm(&said.confirmations).await?;
        self.ledger.report(&said.reports).await?;
        let concerned = self.ledger.concerned(&said.decisive).await?;
        if concerned.is_empty() {
            return Ok(());
        }
        let Some(taken) = self.ledger.take(&concerned).await? else { return Ok(()) };
        let changes: Vec<Change> = taken
            .rows
            .iter()
            .filter_map(|(overdue, recorded)| verdict::hear(overdue, recorded))
            .collect();
        taken.write(&changes).await?;
        changes.iter().for_each(log::change);
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
}

impl Said {
    fn by(entries: &[Heard]) -> Self {
        let mut said = Self::default();
        said.confirmations.reserve(entries.len());
        said.decisive.reserve(entries.len());
        for Heard { consumer, message } in entries {
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

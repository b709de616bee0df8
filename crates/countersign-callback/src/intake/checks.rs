//! Checks that have come due: looked up, and noted as overdue if somebody has not confirmed.

use std::sync::Arc;

use countersign_protocol::check::{CheckHeader, CheckedMessage};
use countersign_protocol::{ArmingId, Check, Name, UnixMillis, Unreadable, Window};
use tokio::sync::Notify;
use tracing::{debug, info};

use crate::heal::recent_checks::NotWritten;
use crate::intake::{Kind, Read};
use crate::ledger::{Armed, Due, Late, Ledger, Tallies, merge};
use crate::rules::budget::Tally;
use crate::rules::overdue::{Key, list};

/// Looks checks up.
#[derive(Clone, Debug)]
pub(crate) struct Checks {
    /// Where.
    pub(crate) ledger: Ledger,
    /// Whom to wake when there is something to judge.
    pub(crate) wake: Arc<Notify>,
    /// How many came due.
    pub(crate) not_written: NotWritten,
}

impl Kind for Checks {
    type Entry = Checked;

    fn read(_: Option<&str>, body: &[u8], window: Window) -> Result<Read<Checked>, Unreadable> {
        let (Check { header, entries }, refused) = Check::read(body, window)?;
        let CheckHeader { upstream, armed_at } = header;
        let entry = |message: CheckedMessage| Checked {
            armed_at,
            arming: message.arming,
            due: Due {
                key: Key { message_id: message.id, upstream: upstream.clone() },
                consumers: message.consumers,
            },
        };
        Ok(Read { refused, entries: entries.into_iter().map(entry).collect() })
    }

    fn print(entry: &Checked) -> Vec<u8> {
        let header =
            CheckHeader { upstream: entry.due.key.upstream.clone(), armed_at: entry.armed_at };
        let message = CheckedMessage {
            id: entry.due.key.message_id,
            consumers: entry.due.consumers.clone(),
            arming: entry.arming,
        };
        Check::new(header, vec![message]).encode()
    }

    fn stored() {
        fail::fail_point!("callback.looked_up", |_| std::process::abort());
    }

    /// A message that everybody has confirmed needs nothing more: nothing is written. Nor does one
    /// whose upstream says that this very arming of it was rolled back.
    ///
    /// A message that is noted already is left alone, whatever its state. An open one is being taken
    /// care of, and this is the check of a resend, which its own delay watches too. A closed one
    /// stays closed: its upstream gave its last word, or it has been confirmed.
    async fn store(&self, entries: &[Checked]) -> Result<(), sqlx::Error> {
        let unconfirmed = self.ledger.unconfirmed(entries.iter().map(|entry| &entry.due)).await?;
        let looked_up = count(entries);
        if unconfirmed.is_empty() {
            self.not_written.add(looked_up);
            return Ok(());
        }
        let missing = |due: &Due| -> Vec<Name> {
            let missing = unconfirmed.get(&due.key.message_id).into_iter().flatten();
            missing.filter(|name| due.consumers.contains(name)).cloned().collect()
        };
        let late: Vec<(&Checked, Vec<Name>)> = entries
            .iter()
            .map(|checked| (checked, missing(&checked.due)))
            .filter(|(_, missing)| !missing.is_empty())
            .collect();
        let armed: Vec<Armed> = late.iter().filter_map(|(c, missing)| c.armed(missing)).collect();
        let settled = self.ledger.rolled_back(&armed).await?;
        if !settled.is_empty() {
            info!(
                count = settled.len(),
                "checks came due whose transactions were rolled back: settled"
            );
        }
        let is_settled = |checked: &Checked, missing: &[Name]| {
            checked.armed(missing).is_some_and(|armed| settled.contains(&armed))
        };
        let late: Vec<Late> = late
            .into_iter()
            .filter(|(checked, missing)| !is_settled(checked, missing))
            .map(|(checked, missing)| {
                let reason = format!("not confirmed by {} when its check came due", list(&missing));
                Late { due: checked.due.clone(), armed_at: checked.armed_at, reason }
            })
            .collect();
        if late.is_empty() {
            self.not_written.add(looked_up);
            return Ok(());
        }
        let before = self.not_written.take();
        let mut tallies = before.clone();
        merge(&mut tallies, looked_up);
        let noted = match self.ledger.note_overdue(&late, &tallies).await {
            Ok(noted) => noted,
            Err(error) => {
                self.not_written.add(before);
                return Err(error);
            }
        };
        if let Some(first) = noted.first() {
            self.wake.notify_one();
            let (message_id, upstream) = (first.message_id, &first.upstream);
            info!(count = noted.len(), %message_id, %upstream, "checks came due unconfirmed; this is one");
        }
        for Key { message_id, upstream } in noted {
            debug!(%message_id, %upstream, "check came due unconfirmed");
        }
        Ok(())
    }
}

/// How many checks of each upstream came due.
fn count(entries: &[Checked]) -> Tallies {
    let mut tallies = Tallies::new();
    for Checked { due, .. } in entries {
        match tallies.get_mut(&due.key.upstream) {
            Some(tally) => tally.looked_up += 1,
            None => {
                let first = Tally { looked_up: 1, ..Tally::default() };
                tallies.insert(due.key.upstream.clone(), first);
            }
        }
    }
    tallies
}

/// A message whose check came due, as its check said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// What the ledger is asked about.
    pub(crate) due: Due,
    /// When the check was armed, on the upstream's clock.
    pub(crate) armed_at: UnixMillis,
    /// Which arming of the message it is of, if it says.
    pub(crate) arming: Option<ArmingId>,
}

impl Checked {
    /// What a rolled-back notice would have to name to settle it. A message that somebody has
    /// confirmed was sent: nothing but confirms settles that.
    fn armed(&self, missing: &[Name]) -> Option<Armed> {
        let nobody_confirmed = missing.len() == self.due.consumers.len();
        let arming = self.arming.filter(|_| nobody_confirmed)?;
        Some(Armed { key: self.due.key.clone(), arming })
    }
}

//! Checks that have come due: looked up, and noted as overdue if a consumer has not confirmed.

use std::sync::Arc;

use countersign_protocol::check::{CheckHeader, CheckedMessage};
use countersign_protocol::{ArmingId, Check, Name, UnixMillis, Unreadable, Window};
use tokio::sync::Notify;
use tracing::{debug, info};

use crate::heal::recent_checks::RecentChecks;
use crate::intake::{Read, Recorder};
use crate::ledger::{Due, Late, Ledger, RolledBackArming, Tallies, merge};
use crate::rules::budget::Tally;
use crate::rules::overdue::{Key, list};

/// Looks checks up.
#[derive(Clone, Debug)]
pub(crate) struct Checks {
    /// Where confirms are looked up and overdue messages noted.
    pub(crate) ledger: Ledger,
    /// Starts a round.
    pub(crate) wake: Arc<Notify>,
    /// Counts the checks that came due.
    pub(crate) recent_checks: RecentChecks,
}

impl Recorder for Checks {
    type Entry = DueCheck;

    fn read(_: Option<&str>, body: &[u8], window: Window) -> Result<Read<DueCheck>, Unreadable> {
        let (Check { header, entries }, refused) = Check::read(body, window)?;
        let CheckHeader { upstream, armed_at } = header;
        let entry = |message: CheckedMessage| DueCheck {
            armed_at,
            arming: message.arming,
            due: Due {
                key: Key { message_id: message.id, upstream: upstream.clone() },
                consumers: message.consumers,
            },
        };
        Ok(Read { refused, entries: entries.into_iter().map(entry).collect() })
    }

    fn print(entry: &DueCheck) -> Vec<u8> {
        let header =
            CheckHeader { upstream: entry.due.key.upstream.clone(), armed_at: entry.armed_at };
        let message = CheckedMessage {
            id: entry.due.key.message_id,
            consumers: entry.due.consumers.clone(),
            arming: entry.arming,
        };
        Check::new(header, vec![message]).encode()
    }

    fn crash_point() {
        fail::fail_point!("callback.looked_up", |_| std::process::abort());
    }

    /// For a message that all its consumers have confirmed nothing is written, nor for one whose
    /// upstream says that this very arming of it was rolled back.
    ///
    /// A row that is there already stays as it is, whatever its state. An open row is being healed, and
    /// this is the check of a resend, which the row's own delay watches too. A closed row stays closed:
    /// its upstream gave its last word, or the consumers have confirmed.
    ///
    /// The checks that came due are counted in the statement that notes the overdue ones: a round that
    /// sees the rows must also see of how many checks they are, or it takes a few for a storm.
    async fn record(&self, entries: &[DueCheck]) -> Result<(), sqlx::Error> {
        let unconfirmed = self.ledger.unconfirmed(entries.iter().map(|entry| &entry.due)).await?;
        let looked_up = count(entries);
        if unconfirmed.is_empty() {
            self.recent_checks.add(looked_up);
            return Ok(());
        }
        let missing = |due: &Due| -> Vec<Name> {
            let missing = unconfirmed.get(&due.key.message_id).into_iter().flatten();
            missing.filter(|name| due.consumers.contains(name)).cloned().collect()
        };
        let late: Vec<(&DueCheck, Vec<Name>)> = entries
            .iter()
            .map(|check| (check, missing(&check.due)))
            .filter(|(_, missing)| !missing.is_empty())
            .collect();
        let armed: Vec<RolledBackArming> =
            late.iter().filter_map(|(c, missing)| c.armed(missing)).collect();
        let settled = self.ledger.rolled_back(&armed).await?;
        if !settled.is_empty() {
            info!(
                count = settled.len(),
                "checks came due whose transactions were rolled back: settled"
            );
        }
        let is_settled = |check: &DueCheck, missing: &[Name]| {
            check.armed(missing).is_some_and(|armed| settled.contains(&armed))
        };
        let late: Vec<Late> = late
            .into_iter()
            .filter(|(check, missing)| !is_settled(check, missing))
            .map(|(check, missing)| {
                let reason = format!("not confirmed by {} when its check came due", list(&missing));
                Late { due: check.due.clone(), armed_at: check.armed_at, reason }
            })
            .collect();
        if late.is_empty() {
            self.recent_checks.add(looked_up);
            return Ok(());
        }
        let before = self.recent_checks.take();
        let mut tallies = before.clone();
        merge(&mut tallies, looked_up);
        let noted = match self.ledger.note_overdue(&late, &tallies).await {
            Ok(noted) => noted,
            Err(error) => {
                self.recent_checks.add(before);
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
fn count(entries: &[DueCheck]) -> Tallies {
    let mut tallies = Tallies::new();
    for DueCheck { due, .. } in entries {
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
pub(crate) struct DueCheck {
    /// The message, and the consumers that have to confirm it.
    pub(crate) due: Due,
    /// When the check was armed, on the upstream's clock.
    pub(crate) armed_at: UnixMillis,
    /// The arming of the message that the check is of, if it says.
    pub(crate) arming: Option<ArmingId>,
}

impl DueCheck {
    /// What a rolled-back notice has to name to settle the check. A message that a consumer has
    /// confirmed was sent: only confirms settle its check.
    fn armed(&self, missing: &[Name]) -> Option<RolledBackArming> {
        let unconfirmed_by_all = missing.len() == self.due.consumers.len();
        let arming = self.arming.filter(|_| unconfirmed_by_all)?;
        Some(RolledBackArming { key: self.due.key.clone(), arming })
    }
}

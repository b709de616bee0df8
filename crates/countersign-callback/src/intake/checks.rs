//! Checks that have come due: looked up, and noted as overdue if a consumer has not confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_protocol::check::{CheckHeader, CheckedMessage, MAX_CONSUMERS};
use countersign_protocol::{Check, Name, Unreadable, Window};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::heal::recent_checks::RecentChecks;
use crate::intake::{Read, Recorder, RefusedEntries};
use crate::ledger::{DueCheck, Expected, Ledger, RolledBackArming, Tallies, merge};
use crate::log;
use crate::rules::budget::Tally;
use crate::rules::origin::Origin;
use crate::rules::overdue::{Correction, FurtherCheck, Key, Policy, list};

/// Looks the messages of checks up that have come due.
#[derive(Clone, Debug)]
pub(crate) struct Checks {
    /// Where confirms are looked up and overdue messages noted.
    pub(crate) ledger: Ledger,
    /// Starts a round of this replica when a row was noted.
    pub(crate) wake: Arc<Notify>,
    /// Counts the checks that came due.
    pub(crate) recent_checks: RecentChecks,
    /// How many resends a row gets that opens again.
    pub(crate) policy: Policy,
}

impl Recorder for Checks {
    type Entry = DueCheck;

    fn read(_: Option<&str>, body: &[u8], window: Window) -> Result<Read<DueCheck>, Unreadable> {
        let (check, refused) = Check::read(body, window)?;
        let refused = RefusedEntries::of(&check, &refused);
        let Check { header, entries } = check;
        let CheckHeader { upstream, database, armed_at } = header;
        let entry = |message: CheckedMessage| DueCheck {
            origin: Origin::named(database.filter(|id| !id.uuid().is_nil())),
            armed_at,
            arming: message.arming,
            message: Expected {
                key: Key { message_id: message.id, upstream: upstream.clone() },
                consumers: message.consumers,
            },
        };
        Ok(Read { refused, entries: entries.into_iter().map(entry).collect() })
    }

    fn print(entry: &DueCheck) -> Vec<u8> {
        let header = CheckHeader {
            upstream: entry.message.key.upstream.clone(),
            database: entry.origin.database(),
            armed_at: entry.armed_at,
        };
        let message = CheckedMessage {
            id: entry.message.key.message_id,
            consumers: entry.message.consumers.clone(),
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
    /// A row that is there already waits for the consumers of both checks. Otherwise it stays as it is: an
    /// open row is being healed, and this is the check of a resend, which the row's own delay watches too. A
    /// row that its upstream or an operator closed stays closed.
    ///
    /// The checks that came due are counted in the statement that notes the overdue ones: a round that
    /// sees the rows must also see of how many checks they are, or it takes a few for a storm.
    async fn record(&self, entries: &[DueCheck]) -> Result<(), sqlx::Error> {
        let unconfirmed =
            self.ledger.unconfirmed(entries.iter().map(|entry| &entry.message)).await?;
        let looked_up = count(entries);
        if unconfirmed.is_empty() {
            self.recent_checks.add(looked_up);
            return Ok(());
        }
        let missing = |message: &Expected| -> Vec<Name> {
            let missing = unconfirmed.get(&message.key.message_id).into_iter().flatten();
            missing.filter(|name| message.consumers.contains(name)).cloned().collect()
        };
        let late: Vec<(&DueCheck, Vec<Name>)> = entries
            .iter()
            .map(|check| (check, missing(&check.message)))
            .filter(|(_, missing)| !missing.is_empty())
            .collect();
        let armed: Vec<RolledBackArming> =
            late.iter().filter_map(|(check, missing)| arming(check, missing)).collect();
        let settled = self.ledger.rolled_back(&armed).await?;
        if !settled.is_empty() {
            info!(
                count = settled.len(),
                "settled checks that came due: their upstreams say that the transactions were rolled back"
            );
        }
        let is_settled = |check: &DueCheck, missing: &[Name]| {
            arming(check, missing).is_some_and(|armed| settled.contains(&armed))
        };
        let late: Vec<(&DueCheck, String)> = late
            .into_iter()
            .filter(|(check, missing)| !is_settled(check, missing))
            .map(|(check, missing)| {
                let reason = format!("not confirmed by {} when its check came due", list(&missing));
                (check, reason)
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
        self.unite(&late, &noted).await?;
        if let Some(first) = noted.first() {
            self.wake.notify_one();
            let (message_id, upstream) = (first.message_id, &first.upstream);
            info!(count = noted.len(), %message_id, %upstream, "noted messages as overdue whose checks came due unconfirmed; this is the first");
        }
        for Key { message_id, upstream } in noted {
            debug!(%message_id, %upstream, "noted a message as overdue: its check came due unconfirmed");
        }
        Ok(())
    }
}

impl Checks {
    /// Adds what these checks name to rows that were there before them. A batch may hold two checks of one
    /// message: then one of them made the row.
    async fn unite(&self, late: &[(&DueCheck, String)], noted: &[Key]) -> Result<(), sqlx::Error> {
        let mut of: BTreeMap<&Key, Vec<&DueCheck>> = BTreeMap::new();
        for (check, _) in late {
            of.entry(&check.message.key).or_default().push(check);
        }
        let noted: BTreeSet<&Key> = noted.iter().collect();
        of.retain(|key, checks| checks.len() > 1 || !noted.contains(key));
        let further: Vec<&DueCheck> = of.values().flatten().copied().collect();
        let differing = self.ledger.differing(&further).await?;
        if differing.is_empty() {
            return Ok(());
        }
        let Some(taken) = self.ledger.take(&differing).await? else { return Ok(()) };
        let further = |key: &Key| {
            let further = one(of.get(key)?);
            if further.consumers.len() > MAX_CONSUMERS {
                warn!(message_id = %key.message_id, upstream = %key.upstream, consumers = list(&further.consumers), most = MAX_CONSUMERS, "the checks of one message name too many consumers: the service waits for the first of them");
            }
            Some(further)
        };
        let corrections: Vec<Correction> = taken
            .rows
            .iter()
            .filter_map(|(row, _)| row.united(&further(&row.key)?, &self.policy, taken.now))
            .collect();
        if corrections.is_empty() {
            return taken.write(&[]).await;
        }
        taken.correct(&corrections).await?;
        corrections.iter().filter_map(|row| row.opened.as_ref()).for_each(log::transition);
        self.wake.notify_one();
        Ok(())
    }
}

/// Several checks of one message as one.
fn one(checks: &[&DueCheck]) -> FurtherCheck {
    let consumers: BTreeSet<Name> =
        checks.iter().flat_map(|check| check.message.consumers.iter().cloned()).collect();
    FurtherCheck {
        consumers: consumers.into_iter().collect(),
        origin: checks.iter().fold(Origin::Unnamed, |origin, check| origin.and(check.origin)),
    }
}

/// How many checks of each upstream came due.
fn count(entries: &[DueCheck]) -> Tallies {
    let mut tallies = Tallies::new();
    for DueCheck { message: Expected { key, .. }, .. } in entries {
        match tallies.get_mut(&key.upstream) {
            Some(tally) => tally.looked_up += 1,
            None => {
                let first = Tally { looked_up: 1, ..Tally::default() };
                tallies.insert(key.upstream.clone(), first);
            }
        }
    }
    tallies
}

/// The arming that a rolled-back notice has to name to settle this check. `None` if a consumer has
/// confirmed the message: its upstream has sent it then, and only confirms settle its check.
fn arming(check: &DueCheck, missing: &[Name]) -> Option<RolledBackArming> {
    let unconfirmed_by_all = missing.len() == check.message.consumers.len();
    let arming = check.arming.filter(|_| unconfirmed_by_all)?;
    Some(RolledBackArming { key: check.message.key.clone(), arming })
}

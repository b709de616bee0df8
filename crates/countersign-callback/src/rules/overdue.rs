//! A message that was not confirmed in time, and what is recorded about it.

use std::time::Duration;

use countersign_protocol::check::MAX_CONSUMERS;
use countersign_protocol::{DatabaseId, MessageId, Name, UnixMillis};
use strum::IntoStaticStr;

use crate::rules::cause::Cause;
use crate::rules::origin::Origin;
use crate::rules::states::{State, StateName};

/// What is done about overdue messages, and when it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The most resends of one message; past that it is parked.
    pub max_resends: u32,
    /// How long after the first resend the message is judged again. It doubles with each further
    /// one, up to an hour.
    pub resend_delay: Duration,
    /// A message that is still open this long after its check came due is parked.
    pub park_after: Duration,
    /// How long the service waits with a resend while the broker does not tell whether the message lies
    /// before its consumer.
    pub backlog_grace: Duration,
    /// How old the management API's figures may be.
    pub management_lag: Duration,
}

/// The states in which a further check adds its consumers to the row. In the others an operator or the
/// upstream has decided.
pub(crate) const UNITES: [StateName; 4] =
    [StateName::Waiting, StateName::Asking, StateName::Parked, StateName::Confirmed];

/// A message whose check came due unconfirmed: a row of `overdue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    /// Which message of whom.
    pub(crate) key: Key,
    /// The database in which its transaction commits: no other may say that it never committed.
    pub(crate) origin: Origin,
    /// The consumers that have to confirm it.
    pub(crate) consumers: Vec<Name>,
    /// Where it stands.
    pub(crate) state: State,
    /// Why, for a person.
    pub(crate) reason: String,
    /// Resends asked for so far.
    pub(crate) resends: u32,
    /// How many calls in a row surely were not made: each gave its resend back.
    pub(crate) calls_not_made: u32,
    /// Up to how many resends an operator has granted; 0 if no operator has.
    pub(crate) granted: u32,
    /// When an operator last asked for a resend, on the database's clock.
    pub(crate) granted_at: Option<UnixMillis>,
    /// Whether a person has granted them, and not the row's being opened again.
    pub(crate) granted_by_person: bool,
    /// When its check came due, on the database's clock.
    pub(crate) since: UnixMillis,
    /// It counts as missing only when a confirm marker sent after this moment has come back, on the
    /// database's clock.
    pub(crate) missing_after: UnixMillis,
    /// When what is waited for was sent, on its upstream's clock: its check was armed, or it was
    /// published again.
    pub(crate) sent_at: Option<UnixMillis>,
}

/// Which overdue message. An id is unique everywhere; if one is not, neither upstream hides the other's
/// message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The message.
    pub(crate) message_id: MessageId,
    /// The upstream that sent it.
    pub(crate) upstream: Name,
}

/// What the ledger holds about one message: what its consumers have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// The consumers that have processed it.
    pub(crate) confirmed: Vec<Name>,
    /// What was said instead of a confirm; also by consumers that have confirmed since.
    pub(crate) reports: Vec<Report>,
}

/// What a consumer said instead of a confirm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Whose word it is.
    pub(crate) consumer: Name,
    /// What it said.
    pub(crate) word: Word,
    /// Why. May be empty.
    pub(crate) reason: String,
}

/// The word of a [`Report`]: its name is that of the wire and the column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Word {
    /// It will never be accepted.
    Rejected,
    /// It failed, and the consumer tries again by itself.
    Retrying {
        /// When, on the consumer's clock.
        until: UnixMillis,
    },
}

/// Where a row goes from here, as a pure decision; the ledger writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    /// The row.
    pub(crate) key: Key,
    /// Its state before.
    pub(crate) from: StateName,
    /// Its state from now on.
    pub(crate) to: State,
    /// Why, in a word that can be counted.
    pub(crate) cause: Cause,
    /// Why, for a person.
    pub(crate) reason: String,
    /// Resends asked for, this transition included.
    pub(crate) resends: u32,
    /// How many calls in a row surely were not made.
    pub(crate) calls_not_made: u32,
    /// From when on the message may count as missing, if that changes.
    pub(crate) missing_after: Option<UnixMillis>,
    /// When the message was sent again, on its upstream's clock, if it was.
    pub(crate) sent_at: Option<UnixMillis>,
}

impl Overdue {
    /// The consumers that still have to confirm it.
    #[must_use]
    pub(crate) fn missing(&self, recorded: &Recorded) -> Vec<Name> {
        let confirmed = |name: &&Name| recorded.confirmed.contains(name);
        self.consumers.iter().filter(|name| !confirmed(name)).cloned().collect()
    }

    /// The rejections, as a reason, if every consumer that still has to confirm the message has rejected
    /// it: nothing is left to be waited for. A message that only some have rejected is healed for the
    /// others first.
    #[must_use]
    pub(crate) fn rejection(&self, recorded: &Recorded) -> Option<String> {
        let missing = self.missing(recorded);
        let rejections: Vec<String> = missing
            .iter()
            .filter_map(|name| recorded.rejection_by(name))
            .map(|report| format!("rejected by {}: {}", report.consumer, report.reason))
            .collect();
        let by_all = !missing.is_empty() && rejections.len() == missing.len();
        by_all.then(|| rejections.join("; "))
    }

    /// When it is parked, whatever happens.
    #[must_use]
    pub(crate) fn gives_up(&self, policy: &Policy) -> UnixMillis {
        self.watched_since().after(policy.park_after)
    }

    /// Since when it is tried to have it confirmed: since its check came due, or since a person last
    /// asked for a resend.
    #[must_use]
    pub(crate) fn watched_since(&self) -> UnixMillis {
        self.granted_at.map_or(self.since, |granted| granted.max(self.since))
    }

    /// The most resends that it gets.
    #[must_use]
    pub(crate) fn max_resends(&self, policy: &Policy) -> u32 {
        policy.max_resends.max(self.granted)
    }

    /// Whether a person has asked for a resend that has not been made: it is made although the consumer
    /// may be behind.
    #[must_use]
    pub(crate) fn is_insisted_on(&self) -> bool {
        self.granted_by_person && self.granted > self.resends
    }

    /// Where the row goes, with its counts as they are.
    #[must_use]
    pub(crate) fn transition(&self, to: State, cause: Cause, reason: String) -> Transition {
        Transition {
            key: self.key.clone(),
            from: self.state.name(),
            to,
            cause,
            reason,
            resends: self.resends,
            calls_not_made: self.calls_not_made,
            missing_after: None,
            sent_at: None,
        }
    }

    /// Where the row goes when every consumer has confirmed it.
    #[must_use]
    pub(crate) fn settled(&self) -> Transition {
        let reason = format!("confirmed by {}", list(&self.consumers));
        self.transition(State::Confirmed, Cause::Confirmed, reason)
    }

    /// Where the row goes when `confirmed` confirmed what its upstream says never committed.
    #[must_use]
    pub(crate) fn contradicted(&self, confirmed: &[Name]) -> Transition {
        let reason = format!(
            "{} says that its transaction never committed, and {} confirmed it",
            self.key.upstream,
            list(confirmed)
        );
        self.transition(State::Conflict, Cause::Conflict, reason)
    }

    /// What the records of the upstream's database change of a row, when they say that its transaction
    /// committed there. `None` if the row says so, too.
    ///
    /// A row that was closed as "never committed" becomes a conflict, which alarms, and opens again:
    /// some upstream has answered for another, and the message is still missing.
    #[must_use]
    pub(crate) fn committed_in(
        &self,
        database: Option<DatabaseId>,
        policy: &Policy,
        now: UnixMillis,
    ) -> Option<Correction> {
        let upstream = &self.key.upstream;
        let origin = database.map_or(self.origin, Origin::Database);
        let is_denied = match self.state.name() {
            StateName::NeverCommitted | StateName::Conflict => true,
            StateName::Waiting | StateName::Asking | StateName::Parked => false,
            StateName::Confirmed | StateName::Withdrawn | StateName::ClosedByHand => return None,
        };
        if !is_denied && origin == self.origin {
            return None;
        }
        let conflict = (self.state == State::NeverCommitted).then(|| {
            let reason = format!(
                "an upstream said that its transaction never committed, and the records of {upstream} say that it did: does an address lead to another upstream?"
            );
            self.transition(State::Conflict, Cause::Conflict, reason)
        });
        let opened = is_denied.then(|| Transition {
            from: StateName::Conflict,
            ..self.opened(
                Cause::CommittedAfterAll,
                format!("the records of {upstream} say that its transaction committed"),
                now,
            )
        });
        Some(Correction {
            key: self.key.clone(),
            consumers: self.consumers.clone(),
            origin,
            granted: self.granted_anew(policy),
            conflict,
            opened,
        })
    }

    /// What a further check of the message changes of its row: it may name consumers that the row does
    /// not wait for yet, and another database. `None` if it changes nothing.
    #[must_use]
    pub(crate) fn united(
        &self,
        check: &FurtherCheck,
        policy: &Policy,
        now: UnixMillis,
    ) -> Option<Correction> {
        if !UNITES.contains(&self.state.name()) {
            return None;
        }
        let origin = self.origin.and(check.origin);
        let mut consumers = self.consumers.clone();
        for name in &check.consumers {
            if !consumers.contains(name) && consumers.len() < MAX_CONSUMERS {
                consumers.push(name.clone());
            }
        }
        let adds_consumers = consumers.len() > self.consumers.len();
        if !adds_consumers && origin == self.origin {
            return None;
        }
        consumers.sort_unstable();
        let opened = (adds_consumers && self.state == State::Confirmed).then(|| {
            let reason = format!("a further check waits for {}", list(&check.consumers));
            self.opened(Cause::NotConfirmed, reason, now)
        });
        let (key, granted) = (self.key.clone(), self.granted_anew(policy));
        Some(Correction { key, consumers, origin, granted, conflict: None, opened })
    }

    /// A closed row that is judged again, from now on.
    fn opened(&self, cause: Cause, reason: String, now: UnixMillis) -> Transition {
        let missing_after = Some(now);
        Transition { missing_after, ..self.transition(State::Waiting { due: now }, cause, reason) }
    }

    /// Up to how many resends a row gets that is opened again: as many more as any other. Its time
    /// begins anew with the grant.
    fn granted_anew(&self, policy: &Policy) -> u32 {
        self.resends.saturating_add(policy.max_resends).max(1)
    }
}

/// A check of a message that has a row already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FurtherCheck {
    /// The consumers that it names.
    pub(crate) consumers: Vec<Name>,
    /// The database that it names.
    pub(crate) origin: Origin,
}

/// A row as a further check, or its upstream's records, leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Correction {
    /// The row.
    pub(crate) key: Key,
    /// The consumers that it waits for from now on, [`MAX_CONSUMERS`] at most.
    pub(crate) consumers: Vec<Name>,
    /// The database in which its transaction commits.
    pub(crate) origin: Origin,
    /// Up to how many resends the row gets, if it opens again.
    pub(crate) granted: u32,
    /// A row that was closed as "never committed" is a conflict first.
    pub(crate) conflict: Option<Transition>,
    /// A closed row opens again.
    pub(crate) opened: Option<Transition>,
}

impl Recorded {
    /// This consumer's rejection, if it has rejected the message.
    #[must_use]
    pub(crate) fn rejection_by(&self, consumer: &Name) -> Option<&Report> {
        self.reports.iter().find(|r| r.consumer == *consumer && r.word == Word::Rejected)
    }
}

impl Word {
    /// When the consumer tries again.
    #[must_use]
    pub(crate) fn until(self) -> Option<UnixMillis> {
        match self {
            Self::Rejected => None,
            Self::Retrying { until } => Some(until),
        }
    }
}

/// Names as a person reads them.
#[must_use]
pub(crate) fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;

//! A message that was not confirmed in time, and what is recorded about it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use countersign_protocol::{MessageId, Name, UnixMillis};
use uuid::Uuid;

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
    /// How long a message is left alone when nobody can tell whether it lies before its consumer.
    pub backlog_patience: Duration,
    /// How old the management API's figures may be.
    pub management_lag: Duration,
}

/// A message whose check came due unconfirmed: a row of `overdue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    /// Which message of whom.
    pub(crate) key: Key,
    /// Who has to confirm it.
    pub(crate) consumers: Vec<Name>,
    /// Where it stands.
    pub(crate) state: State,
    /// Why, for a person.
    pub(crate) reason: String,
    /// Resends asked for so far.
    pub(crate) resends: u32,
    /// How many calls in a row surely did not happen, and used up no resend.
    pub(crate) returned: u32,
    /// Up to how many resends a person has granted; 0 if nobody has.
    pub(crate) granted: u32,
    /// When a person last asked for a resend, on the database's clock.
    pub(crate) granted_at: Option<UnixMillis>,
    /// When its check came due, on the database's clock.
    pub(crate) since: UnixMillis,
    /// It counts as missing only when a confirm marker sent after this moment has come back, on the
    /// database's clock.
    pub(crate) missing_after: UnixMillis,
    /// When what is waited for was sent, on its upstream's clock: its check was armed, or it was
    /// published again.
    pub(crate) sent_at: Option<UnixMillis>,
    /// The token of who is asking for it; only while [`State::Asking`].
    pub(crate) lease: Option<Uuid>,
}

/// Which overdue message: two upstreams may use one id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The message.
    pub(crate) message_id: MessageId,
    /// Who sent it.
    pub(crate) upstream: Name,
}

/// Where an overdue message stands. The names are those of the column, the API and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Open: judged again when it is due.
    Waiting,
    /// Open: somebody holds the lease and asks its upstream.
    Asking,
    /// Open, but given up: a person has to look. A late confirm still resolves it.
    Parked,
    /// Closed: everybody who has to has confirmed it.
    Confirmed,
    /// Closed: its transaction did not commit and never will.
    NeverCommitted,
    /// Closed: its upstream no longer wants it sent.
    Withdrawn,
    /// Closed: its upstream said "never committed", and a consumer confirmed it.
    Conflict,
    /// Closed by a person, and stays so: a late confirm is recorded and told, and changes nothing.
    ClosedByHand,
}

/// What the ledger holds about one message: what its consumers have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Who has processed it.
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

/// The word of a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub(crate) struct Change {
    /// Which row.
    pub(crate) key: Key,
    /// Its state before.
    pub(crate) from: State,
    /// Its state from now on.
    pub(crate) to: To,
    /// Why, in a word that can be counted.
    pub(crate) cause: Cause,
    /// Why, for a person.
    pub(crate) reason: String,
    /// Resends asked for, this change included.
    pub(crate) resends: u32,
    /// Calls in a row that surely did not happen.
    pub(crate) returned: u32,
    /// From when on it may count as missing, if that changes.
    pub(crate) missing_after: Option<UnixMillis>,
    /// When it was sent again, on its upstream's clock, if it was.
    pub(crate) sent_at: Option<UnixMillis>,
}

/// Why a row is in its state, in a word that can be counted and filtered by; its reason says more.
/// The names are those of the column and the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// Its check came due, or its resend's time was over, and somebody has not confirmed.
    NotConfirmed,
    /// Everybody who has to has confirmed it.
    Confirmed,
    /// Its confirm may be with the broker, not recorded yet.
    ConfirmUnderWay,
    /// Nobody can tell yet whether it lies before its consumer.
    BacklogUnknown,
    /// It may lie before its consumer, which has to catch up.
    ConsumerBehind,
    /// Its consumer has never been heard of with messages of its upstream.
    ConsumerNeverSeen,
    /// Its consumer has it and tries again by itself.
    ConsumerRetrying,
    /// Its consumer will never accept it.
    Rejected,
    /// It was sent again, and its confirm is waited for.
    Republished,
    /// Nobody knows whether it was sent again.
    Unanswered,
    /// Its transaction may still commit.
    InProgress,
    /// Its upstream has it and could not send it.
    NotPublished,
    /// Its upstream could not be asked.
    UpstreamAway,
    /// There is no address to ask its upstream at.
    NoAddress,
    /// Its upstream cannot tell what became of it.
    UnknownToUpstream,
    /// It was sent again as often as may be.
    ResendsUsedUp,
    /// It was open for too long.
    OpenTooLong,
    /// Its transaction did not commit and never will.
    NeverCommitted,
    /// Its upstream no longer wants it sent.
    Withdrawn,
    /// Its upstream said "never committed", and a consumer confirmed it.
    Conflict,
    /// A person asked for one more resend.
    AskedByHand,
    /// A person closed it.
    ClosedByHand,
}

/// A state together with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Judged again at `due`.
    Waiting {
        /// On the database's clock.
        due: UnixMillis,
    },
    /// Asked for by the holder of `lease`, which ends at `due`.
    Asking {
        /// The token.
        lease: Uuid,
        /// On the database's clock.
        due: UnixMillis,
    },
    /// Given up until a person or a late confirm comes.
    Parked,
    /// Closed.
    Closed(Closed),
}

/// How a row is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// See [`State::Confirmed`].
    Confirmed,
    /// See [`State::NeverCommitted`].
    NeverCommitted,
    /// See [`State::Withdrawn`].
    Withdrawn,
    /// See [`State::Conflict`].
    Conflict,
    /// See [`State::ClosedByHand`].
    ByHand,
}

impl Overdue {
    /// Who still has to confirm it.
    #[must_use]
    pub(crate) fn missing(&self, recorded: &Recorded) -> Vec<Name> {
        let confirmed = |name: &&Name| recorded.confirmed.contains(name);
        self.consumers.iter().filter(|name| !confirmed(name)).cloned().collect()
    }

    /// The first rejection by somebody who still has to confirm it, as a reason.
    #[must_use]
    pub(crate) fn rejection(&self, recorded: &Recorded) -> Option<String> {
        let missing = self.missing(recorded);
        let rejected = recorded
            .reports
            .iter()
            .find(|report| report.word == Word::Rejected && missing.contains(&report.consumer))?;
        Some(format!("rejected by {}: {}", rejected.consumer, rejected.reason))
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

    /// Where the row goes, with its counts as they are.
    #[must_use]
    pub(crate) fn change(&self, to: To, cause: Cause, reason: String) -> Change {
        Change {
            key: self.key.clone(),
            from: self.state,
            to,
            cause,
            reason,
            resends: self.resends,
            returned: self.returned,
            missing_after: None,
            sent_at: None,
        }
    }

    /// Where the row goes when everybody has confirmed it.
    #[must_use]
    pub(crate) fn settled(&self) -> Change {
        let reason = format!("confirmed by {}", list(&self.consumers));
        self.change(To::Closed(Closed::Confirmed), Cause::Confirmed, reason)
    }

    /// Where the row goes when `confirmed` confirmed what its upstream says never committed.
    #[must_use]
    pub(crate) fn contradicted(&self, confirmed: &[Name]) -> Change {
        let reason = format!(
            "{} says that its transaction never committed, and {} confirmed it",
            self.key.upstream,
            list(confirmed)
        );
        self.change(To::Closed(Closed::Conflict), Cause::Conflict, reason)
    }
}

impl Word {
    /// Its name, as on the wire.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Retrying { .. } => "retrying",
        }
    }

    /// When the consumer tries again.
    #[must_use]
    pub(crate) fn until(self) -> Option<UnixMillis> {
        match self {
            Self::Rejected => None,
            Self::Retrying { until } => Some(until),
        }
    }
}

impl To {
    /// When somebody has to look at it again.
    #[must_use]
    pub(crate) fn due(self) -> Option<UnixMillis> {
        match self {
            Self::Waiting { due } | Self::Asking { due, .. } => Some(due),
            Self::Parked | Self::Closed(_) => None,
        }
    }

    /// The token of who is asking.
    #[must_use]
    pub(crate) fn lease(self) -> Option<Uuid> {
        match self {
            Self::Asking { lease, .. } => Some(lease),
            Self::Waiting { .. } | Self::Parked | Self::Closed(_) => None,
        }
    }

    /// The state alone.
    #[must_use]
    pub(crate) fn state(self) -> State {
        match self {
            Self::Waiting { .. } => State::Waiting,
            Self::Asking { .. } => State::Asking,
            Self::Parked => State::Parked,
            Self::Closed(Closed::Confirmed) => State::Confirmed,
            Self::Closed(Closed::NeverCommitted) => State::NeverCommitted,
            Self::Closed(Closed::Withdrawn) => State::Withdrawn,
            Self::Closed(Closed::Conflict) => State::Conflict,
            Self::Closed(Closed::ByHand) => State::ClosedByHand,
        }
    }
}

impl Cause {
    /// Every one.
    pub(crate) const ALL: [Self; 22] = [
        Self::NotConfirmed,
        Self::Confirmed,
        Self::ConfirmUnderWay,
        Self::BacklogUnknown,
        Self::ConsumerBehind,
        Self::ConsumerNeverSeen,
        Self::ConsumerRetrying,
        Self::Rejected,
        Self::Republished,
        Self::Unanswered,
        Self::InProgress,
        Self::NotPublished,
        Self::UpstreamAway,
        Self::NoAddress,
        Self::UnknownToUpstream,
        Self::ResendsUsedUp,
        Self::OpenTooLong,
        Self::NeverCommitted,
        Self::Withdrawn,
        Self::Conflict,
        Self::AskedByHand,
        Self::ClosedByHand,
    ];

    /// Its name.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotConfirmed => "not_confirmed",
            Self::Confirmed => "confirmed",
            Self::ConfirmUnderWay => "confirm_under_way",
            Self::BacklogUnknown => "backlog_unknown",
            Self::ConsumerBehind => "consumer_behind",
            Self::ConsumerNeverSeen => "consumer_never_seen",
            Self::ConsumerRetrying => "consumer_retrying",
            Self::Rejected => "rejected",
            Self::Republished => "republished",
            Self::Unanswered => "unanswered",
            Self::InProgress => "in_progress",
            Self::NotPublished => "not_published",
            Self::UpstreamAway => "upstream_away",
            Self::NoAddress => "no_address",
            Self::UnknownToUpstream => "unknown_to_upstream",
            Self::ResendsUsedUp => "resends_used_up",
            Self::OpenTooLong => "open_too_long",
            Self::NeverCommitted => "never_committed",
            Self::Withdrawn => "withdrawn",
            Self::Conflict => "conflict",
            Self::AskedByHand => "asked_by_hand",
            Self::ClosedByHand => "closed_by_hand",
        }
    }
}

impl State {
    /// Those that are not settled: open, or in need of a person.
    pub(crate) const UNRESOLVED: [Self; 4] =
        [Self::Waiting, Self::Asking, Self::Parked, Self::Conflict];

    /// Every one.
    pub(crate) const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Asking,
        Self::Parked,
        Self::Confirmed,
        Self::NeverCommitted,
        Self::Withdrawn,
        Self::Conflict,
        Self::ClosedByHand,
    ];

    /// Its name.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Asking => "asking",
            Self::Parked => "parked",
            Self::Confirmed => "confirmed",
            Self::NeverCommitted => "never_committed",
            Self::Withdrawn => "withdrawn",
            Self::Conflict => "conflict",
            Self::ClosedByHand => "closed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no state of an overdue message"))
    }
}

/// Names as a person reads them.
#[must_use]
pub(crate) fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

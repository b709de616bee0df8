//! The states of an overdue row: what each means, what belongs to it, and which follows which.
//!
//! `docs/states.md` draws the table that stands here. Tests compare the table with that page, with
//! the constraints of the database, with the `.proto` and with the help of the command line tool.

use countersign_protocol::UnixMillis;
use strum::{Display, EnumDiscriminants, EnumString, IntoStaticStr, VariantArray};
use uuid::Uuid;

use crate::rules::cause::Cause;

/// The state of an overdue row, with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(
    name(StateName),
    vis(pub(crate)),
    doc = "A [`State`] by its name alone: the word of the column, the API and the log.",
    derive(Hash, PartialOrd, Ord, Display, EnumString, IntoStaticStr, VariantArray),
    strum(serialize_all = "snake_case")
)]
pub(crate) enum State {
    /// Open: the row is judged again when it is due.
    Waiting {
        /// On the database's clock.
        due: UnixMillis,
    },
    /// Open: a replica holds the lease and asks the row's upstream.
    Asking {
        /// When it ends, the row is judged again.
        lease: Lease,
    },
    /// Given up: an operator has to look. A late confirm still resolves it.
    Parked,
    /// Closed: every consumer that has to confirm the message has confirmed it.
    Confirmed,
    /// Closed: the message's transaction did not commit and never will.
    NeverCommitted,
    /// Closed: the upstream no longer wants the message sent.
    Withdrawn,
    /// Closed: the upstream said "never committed", and a consumer or the upstream's own records say
    /// otherwise.
    Conflict,
    /// Closed by an operator, and stays so: a late confirm is recorded and told, and changes nothing.
    ClosedByHand,
}

/// The right to ask an upstream for a message. A round of a replica takes one for all of its rows;
/// while a row is being asked for, only the holder's answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Drawn by the round that took it.
    pub(crate) token: Uuid,
    /// When it ends, on the database's clock.
    pub(crate) expires_at: UnixMillis,
}

/// What is true of every row in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The service is at work on the row: it has a time at which it is judged again.
    pub(crate) open: bool,
    /// The row is not settled: it is open, or needs an operator. Lists show these unless told
    /// otherwise.
    pub(crate) unresolved: bool,
    /// What a consumer says of the message may move the row on.
    pub(crate) heeds_consumers: bool,
    /// The row has a time of closing, and is pruned some time after it.
    pub(crate) closed: bool,
    /// For a reader of `docs/states.md`.
    pub(crate) meaning: &'static str,
}

/// A step from one state to another that the history of a row may tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// `None`: the row is made.
    pub(crate) from: Option<StateName>,
    pub(crate) to: StateName,
    /// All the causes of this step.
    pub(crate) causes: &'static [Cause],
}

impl State {
    /// Its name alone.
    #[must_use]
    pub(crate) fn name(self) -> StateName {
        self.into()
    }

    /// When the row is judged again.
    #[must_use]
    pub(crate) fn due(self) -> Option<UnixMillis> {
        match self {
            Self::Waiting { due } => Some(due),
            Self::Asking { lease } => Some(lease.expires_at),
            _ => None,
        }
    }

    /// The lease under which the row's upstream is asked.
    #[must_use]
    pub(crate) fn lease(self) -> Option<Lease> {
        match self {
            Self::Asking { lease } => Some(lease),
            _ => None,
        }
    }
}

impl StateName {
    /// The state of this name, with what a row holds of it. `None` if what belongs to it is missing.
    #[must_use]
    pub(crate) fn with(self, due: Option<UnixMillis>, lease: Option<Uuid>) -> Option<State> {
        Some(match self {
            Self::Waiting => State::Waiting { due: due? },
            Self::Asking => State::Asking { lease: Lease { token: lease?, expires_at: due? } },
            Self::Parked => State::Parked,
            Self::Confirmed => State::Confirmed,
            Self::NeverCommitted => State::NeverCommitted,
            Self::Withdrawn => State::Withdrawn,
            Self::Conflict => State::Conflict,
            Self::ClosedByHand => State::ClosedByHand,
        })
    }

    /// The table of states.
    #[must_use]
    #[rustfmt::skip]
    pub(crate) const fn facts(self) -> Facts {
        const YES: bool = true;
        const NO: bool = false;
        let (open, unresolved, heeds_consumers, closed, meaning) = match self {
            Self::Waiting => (YES, YES, YES, NO,
                "the service judges the row again when it is due"),
            Self::Asking => (YES, YES, YES, NO,
                "a replica holds the lease and asks the row's upstream"),
            Self::Parked => (NO, YES, YES, NO,
                "given up: an operator has to look; a late confirm still resolves the row"),
            Self::Confirmed => (NO, NO, NO, YES,
                "every consumer that has to confirm the message has confirmed it"),
            Self::NeverCommitted => (NO, NO, YES, YES,
                "the message's transaction did not commit and never will"),
            Self::Withdrawn => (NO, NO, NO, YES,
                "the upstream no longer wants the message sent"),
            Self::Conflict => (NO, YES, NO, YES,
                "the upstream said \"never committed\", and a consumer or its own records say otherwise"),
            Self::ClosedByHand => (NO, NO, NO, YES,
                "an operator closed the row: a late confirm is recorded and changes nothing"),
        };
        Facts { open, unresolved, heeds_consumers, closed, meaning }
    }

    /// The states of which a fact is true, in their order.
    #[must_use]
    pub(crate) fn all_that(are: fn(Facts) -> bool) -> Vec<Self> {
        Self::VARIANTS.iter().copied().filter(|state| are(state.facts())).collect()
    }
}

/// Every step that there is. A row that stays [`Waiting`](StateName::Waiting) is only deferred: that
/// is no step, and leaves nothing in the history.
#[rustfmt::skip]
pub(crate) const STEPS: [Step; 21] = {
    use StateName::{
        Asking, ClosedByHand, Confirmed, Conflict, NeverCommitted, Parked, Waiting, Withdrawn,
    };
    [
        step(None, Waiting, &[Cause::NotConfirmed]),
        step(Some(Waiting), Asking, &[Cause::NotConfirmed]),
        step(Some(Waiting), Parked, &[Cause::Rejected, Cause::OpenTooLong, Cause::ResendsUsedUp]),
        step(Some(Waiting), Confirmed, &[Cause::Confirmed]),
        step(Some(Waiting), ClosedByHand, &[Cause::ClosedByHand]),
        step(Some(Asking), Waiting, &[
            // The upstream's answer, or the lack of one.
            Cause::Republished, Cause::Unanswered, Cause::InProgress, Cause::NotPublished,
            Cause::UpstreamAway, Cause::Misdirected,
            // The lease ran out, and the row is deferred.
            Cause::ConfirmUnderWay, Cause::BacklogUnknown, Cause::ConsumerBehind,
            Cause::ConsumerNeverSeen, Cause::ConsumerRetrying, Cause::NoAddress,
        ]),
        // The lease ran out, and another round asks.
        step(Some(Asking), Asking, &[Cause::NotConfirmed]),
        step(Some(Asking), Parked, &[
            Cause::Rejected, Cause::UnknownToUpstream, Cause::OpenTooLong, Cause::ResendsUsedUp,
        ]),
        step(Some(Asking), Confirmed, &[Cause::Confirmed]),
        step(Some(Asking), NeverCommitted, &[Cause::NeverCommitted]),
        step(Some(Asking), Withdrawn, &[Cause::Withdrawn]),
        step(Some(Asking), Conflict, &[Cause::Conflict]),
        step(Some(Asking), ClosedByHand, &[Cause::ClosedByHand]),
        step(Some(Parked), Waiting, &[Cause::AskedByHand]),
        step(Some(Parked), Confirmed, &[Cause::Confirmed]),
        step(Some(Parked), ClosedByHand, &[Cause::ClosedByHand]),
        step(Some(Confirmed), Conflict, &[Cause::Conflict]),
        // A later check names a further consumer.
        step(Some(Confirmed), Waiting, &[Cause::NotConfirmed]),
        step(Some(NeverCommitted), Conflict, &[Cause::Conflict]),
        step(Some(Conflict), Waiting, &[Cause::CommittedAfterAll]),
        step(Some(Conflict), ClosedByHand, &[Cause::ClosedByHand]),
    ]
};

const fn step(from: Option<StateName>, to: StateName, causes: &'static [Cause]) -> Step {
    Step { from, to, causes }
}

/// Whether going from one state to another is a step.
#[must_use]
pub(crate) fn is_step(from: StateName, to: StateName) -> bool {
    STEPS.iter().any(|step| (step.from, step.to) == (Some(from), to))
}

#[cfg(test)]
mod tests;

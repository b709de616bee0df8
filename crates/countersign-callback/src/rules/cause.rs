//! Why a row is in its state.

use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// Why a row is in its state, in a word that can be counted and filtered by; the row's reason says
/// more. The names are those of the column and the API.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Cause {
    /// The check came due, or a resend's time was over, and a consumer has not confirmed.
    NotConfirmed,
    /// Every consumer that has to confirm the message has confirmed it.
    Confirmed,
    /// The message's confirm may be with the broker, not recorded yet.
    ConfirmUnderWay,
    /// Whether the message lies before its consumer is not known yet.
    BacklogUnknown,
    /// The message may lie before its consumer, which has to catch up.
    ConsumerBehind,
    /// The consumer has never confirmed a message of this upstream.
    ConsumerNeverSeen,
    /// The consumer has the message and tries again by itself.
    ConsumerRetrying,
    /// The consumer will never accept the message.
    Rejected,
    /// The upstream sent the message again; its confirm is waited for.
    Republished,
    /// Whether the upstream sent the message again is unknown.
    Unanswered,
    /// The message's transaction may still commit.
    InProgress,
    /// The upstream has the message and could not send it.
    NotPublished,
    /// The upstream's address leads to another upstream, or to one with another database.
    Misdirected,
    /// The upstream could not be asked.
    UpstreamAway,
    /// The service has no address to ask the upstream at.
    NoAddress,
    /// The upstream cannot tell what became of the message.
    UnknownToUpstream,
    /// The message was sent again as often as may be.
    ResendsUsedUp,
    /// The row was open for too long.
    OpenTooLong,
    /// The message's transaction did not commit and never will.
    NeverCommitted,
    /// The upstream no longer wants the message sent.
    Withdrawn,
    /// The upstream said "never committed", and a consumer confirmed the message.
    Conflict,
    /// The upstream said "never committed", and the records of its database say "committed".
    CommittedAfterAll,
    /// An operator asked for one more resend.
    AskedByHand,
    /// An operator closed the row.
    ClosedByHand,
}

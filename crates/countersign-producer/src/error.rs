//! Why the SDK did not send messages.

use std::error::Error as StdError;
use std::fmt;

use countersign_amqp::NotTaken;
use countersign_postgres::{Trouble, trouble};
use countersign_protocol::MessageId;

use crate::message::Message;
use crate::send::armed::Armed;
use crate::send::checks::NotHeld;

/// Why the SDK did not send messages, from arming to the commit.
///
/// [`kind`](Self::kind) says what happened, [`is_retryable`](Self::is_retryable) whether another
/// try may succeed, and [`may_be_committed`](Self::may_be_committed) whether the transaction may be
/// committed. The error gives back the values that another try needs:
/// [`into_armed`](Self::into_armed), [`into_messages`](Self::into_messages). The cause, such as the
/// database's error, is the `source`.
///
/// An error of a statement in the transaction becomes one of these, so that `?` does for the whole
/// flow, from `arm` to `commit`. Do not convert errors of statements that run after the commit: they
/// would look as if nothing were committed.
///
/// ```no_run
/// # use countersign_producer::{Error, Message, Publisher};
/// async fn place(publisher: &Publisher, pool: &sqlx::PgPool, message: Message) -> Result<(), Error> {
///     let mut tx = publisher.arm(message)?.begin(pool).await?;
///     sqlx::query("INSERT INTO orders (name) VALUES ('a chair')").execute(&mut *tx).await?;
///     tx.commit().await?.publish();
///     Ok(())
/// }
/// ```
pub struct Error(Box<Inner>);

/// Boxed, so that a result is no larger than what succeeds.
struct Inner {
    kind: ErrorKind,
    text: String,
    message_id: Option<MessageId>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    given_back: GivenBack,
}

/// The value that another try begins with.
enum GivenBack {
    Nothing,
    Messages(Vec<Message>),
    Armed(Armed),
}

/// What happened, by what the caller can do about it. Unless a kind says otherwise, nothing was
/// committed and nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The broker has not confirmed as many messages, or bytes, as
    /// [`max_unconfirmed`](crate::ProducerSettings::max_unconfirmed) allows. Arm the messages again
    /// when the broker has caught up.
    Overloaded,
    /// The broker is not connected, or blocks publishers. Arm the messages again later.
    BrokerAway,
    /// The caller has called [`Publisher::close`](crate::Publisher::close).
    Closed,
    /// A message that can never be sent as it is, or a transaction of none or of over 1,000 messages.
    Invalid,
    /// The broker has no exchange of the name that a message goes to, or a moment ago refused a
    /// message to the same exchange and key. When the name is right and the exchange is declared, or
    /// the right to write to it granted, arm the messages again.
    Destination,
    /// The settings cannot work: see [`Publisher::start`](crate::Publisher::start).
    Settings,
    /// No wait queue is bound for the tier: the callback service has never run, or the tier is not
    /// in its `COUNTERSIGN_CHECK_TIERS`.
    NoWaitQueue,
    /// The wait queue does not take the check: most likely the queue is full.
    WaitQueueFull,
    /// The broker did not say within the arm timeout whether it holds the check.
    NoAnswer,
    /// The ids are older than [`armed_max_age`](crate::ProducerSettings::armed_max_age): make new
    /// messages and arm those.
    TooOld,
    /// The callback service asked for this message and was told that its transaction never commits.
    /// Make a new message and arm it.
    Fenced,
    /// An earlier transaction with the same id has committed: this one was rolled back, and the
    /// message is on its way. So ends a retry after [`CommitUnknown`](Self::CommitUnknown) whose
    /// first try did commit.
    AlreadyCommitted,
    /// The transaction would commit in another database than the checks name, or the publisher was
    /// not told which one it has: see
    /// [`ProducerSettings::database`](crate::ProducerSettings::database).
    WrongDatabase,
    /// The database's clock and this machine's are more than an hour apart, or the database has no
    /// partition for the message's id. Nothing was committed; try again once the wrong clock is right.
    ClocksDisagree,
    /// The database refuses the data: a violated constraint, a value out of range. The same data is
    /// refused again.
    Data,
    /// The database is away or busy, rolled the transaction back (a deadlock, a serialization
    /// failure), or has a fault that retries do not mend (a missing table):
    /// [`Error::is_retryable`] tells them apart.
    Database,
    /// The transaction, or an earlier one with the same id, may be committed or not: the connection
    /// broke at the commit, or an id was found taken and the database did not say by whom. If it is
    /// committed, its messages are sent when their checks come due.
    CommitUnknown,
}

impl Error {
    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether another try may succeed later, with the messages that the error gives back or the
    /// same ones. `false` when the messages need a change first, and when they may be committed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            ErrorKind::Overloaded
            | ErrorKind::BrokerAway
            | ErrorKind::Destination
            | ErrorKind::NoWaitQueue
            | ErrorKind::WaitQueueFull
            | ErrorKind::NoAnswer
            | ErrorKind::ClocksDisagree => true,
            ErrorKind::Database => self.database().is_some_and(|e| trouble(e) == Trouble::Again),
            ErrorKind::Closed
            | ErrorKind::Invalid
            | ErrorKind::Settings
            | ErrorKind::TooOld
            | ErrorKind::Fenced
            | ErrorKind::AlreadyCommitted
            | ErrorKind::WrongDatabase
            | ErrorKind::Data
            | ErrorKind::CommitUnknown => false,
        }
    }

    /// Whether a transaction with these messages may be committed: this one
    /// ([`ErrorKind::CommitUnknown`]) or an earlier one ([`ErrorKind::AlreadyCommitted`]). If
    /// `false`, none surely is, and none of the messages is ever sent.
    #[must_use]
    pub fn may_be_committed(&self) -> bool {
        matches!(self.0.kind, ErrorKind::CommitUnknown | ErrorKind::AlreadyCommitted)
    }

    /// The one message that the error is about, if it is not about all.
    #[must_use]
    pub fn message_id(&self) -> Option<MessageId> {
        self.0.message_id
    }

    /// The name of the constraint that the data violates.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        self.database()?.as_database_error()?.constraint()
    }

    /// The messages with their checks still armed, to begin another transaction with. The error
    /// holds them when the database refused to begin the transaction, or rolled it back at the
    /// commit.
    #[must_use]
    pub fn into_armed(self) -> Option<Armed> {
        match self.0.given_back {
            GivenBack::Armed(armed) => Some(armed),
            GivenBack::Nothing | GivenBack::Messages(_) => None,
        }
    }

    /// The messages, to arm again. None when they can no longer be sent, when they may be
    /// committed, and when a statement of the transaction failed.
    #[must_use]
    pub fn into_messages(self) -> Vec<Message> {
        match self.0.given_back {
            GivenBack::Messages(messages) => messages,
            GivenBack::Armed(armed) => armed.batch.messages,
            GivenBack::Nothing => Vec::new(),
        }
    }

    fn database(&self) -> Option<&sqlx::Error> {
        self.0.source.as_deref()?.downcast_ref()
    }

    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        let (text, given_back) = (text.into(), GivenBack::Nothing);
        Self(Box::new(Inner { kind, text, message_id: None, source: None, given_back }))
    }

    pub(crate) fn about(mut self, id: MessageId) -> Self {
        self.0.message_id = Some(id);
        self
    }

    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    pub(crate) fn giving_back(mut self, messages: Vec<Message>) -> Self {
        self.0.given_back = GivenBack::Messages(messages);
        self
    }

    pub(crate) fn giving_back_armed(mut self, armed: Armed) -> Self {
        self.0.given_back = GivenBack::Armed(armed);
        self
    }

    /// An error of the database; `text` says what it refused.
    pub(crate) fn of_database(text: &str, source: sqlx::Error) -> Self {
        let kind = match trouble(&source) {
            Trouble::Data => ErrorKind::Data,
            Trouble::Again | Trouble::Other => ErrorKind::Database,
        };
        Self::new(kind, text).with_source(source)
    }

    /// An error of the publisher, which took no check.
    pub(crate) fn of_publisher(why: &NotTaken) -> Self {
        match why {
            NotTaken::Overloaded => Self::overloaded(),
            NotTaken::Closed => Self::new(ErrorKind::Closed, "the publisher is closed"),
            NotTaken::Away { why } => {
                Self::new(ErrorKind::BrokerAway, format!("the broker is away: {why}"))
            }
            other => Self::new(ErrorKind::BrokerAway, format!("the check was not sent: {other}")),
        }
    }

    pub(crate) fn overloaded() -> Self {
        Self::new(
            ErrorKind::Overloaded,
            "overloaded: as many messages are unconfirmed by the broker as may be",
        )
    }
}

/// For the statements of the transaction: `?` returns the error, which drops the transaction and so
/// rolls it back.
impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        Self::of_database("a statement of the transaction failed", source)
    }
}

/// For [`Message::json`].
impl From<serde_json::Error> for Error {
    fn from(source: serde_json::Error) -> Self {
        Self::new(ErrorKind::Invalid, "the message cannot be said in JSON").with_source(source)
    }
}

impl From<NotHeld> for Error {
    fn from(why: NotHeld) -> Self {
        let kind = match why {
            NotHeld::NoWaitQueue { .. } => ErrorKind::NoWaitQueue,
            NotHeld::NoExchange(_) => ErrorKind::Destination,
            NotHeld::Refused { .. } => ErrorKind::WaitQueueFull,
            NotHeld::Unknown { .. } | NotHeld::Timeout(_) => ErrorKind::NoAnswer,
        };
        Self::new(kind, format!("not armed: {why}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, text, source, .. } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("text", text)
            .field("source", source)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&**self.0.source.as_ref()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_database(error: sqlx::Error) -> Error {
        error.into()
    }

    #[test]
    fn what_may_pass_is_retryable_and_what_is_or_may_be_committed_is_said_to_be() {
        let not_armed = |why: NotHeld| Error::from(why);
        let tier = || "5m".parse().unwrap();
        for (error, kind, is_retryable) in [
            (Error::overloaded(), ErrorKind::Overloaded, true),
            (Error::of_publisher(&NotTaken::Closed), ErrorKind::Closed, false),
            (
                Error::of_publisher(&NotTaken::Away { why: "down".into() }),
                ErrorKind::BrokerAway,
                true,
            ),
            (
                not_armed(NotHeld::NoWaitQueue { tier: tier(), why: "NO_ROUTE".into() }),
                ErrorKind::NoWaitQueue,
                true,
            ),
            (not_armed(NotHeld::Refused { tier: tier() }), ErrorKind::WaitQueueFull, true),
            (not_armed(NotHeld::Unknown { why: "reset".into() }), ErrorKind::NoAnswer, true),
            (of_database(sqlx::Error::PoolTimedOut), ErrorKind::Database, true),
            (of_database(sqlx::Error::RowNotFound), ErrorKind::Database, false),
            (of_database(sqlx::Error::Decode("x".into())), ErrorKind::Data, false),
            (Error::new(ErrorKind::CommitUnknown, ""), ErrorKind::CommitUnknown, false),
            (Error::new(ErrorKind::AlreadyCommitted, ""), ErrorKind::AlreadyCommitted, false),
        ] {
            assert_eq!((error.kind(), error.is_retryable()), (kind, is_retryable), "{error:?}");
            let committed = [ErrorKind::CommitUnknown, ErrorKind::AlreadyCommitted].contains(&kind);
            assert_eq!(error.may_be_committed(), committed, "{error:?}");
        }
    }

    #[test]
    fn the_cause_is_in_the_source_and_not_in_the_text() {
        let error = of_database(sqlx::Error::PoolTimedOut);
        assert_eq!(error.to_string(), "a statement of the transaction failed");
        assert!(error.source().unwrap().to_string().contains("timed out"));
    }

    #[test]
    fn an_error_travels_between_tasks() {
        fn travels<T: Send + Sync + 'static>() {}
        travels::<Error>();
    }
}

//! The upstream's own data, in which it finds its messages again.

use countersign_protocol::MessageId;
use sqlx::PgConnection;

use crate::message::Message;

/// Finds messages again in the upstream's own data. The user writes it (or stores the messages
/// themselves: [`StoredMessages`](crate::StoredMessages)).
///
/// `Store` is the way to the data: a connection to the Postgres database that holds the
/// transactions (its primary, read only here), or `()` for an upstream that keeps its data
/// elsewhere.
pub trait MessageSource<Store = PgConnection>: Send + Sync + 'static {
    /// Finds the message of this id, as it is to be sent now, made from committed data.
    ///
    /// # Errors
    /// When the data cannot be read. The upstream then tells its caller to ask again.
    fn find(
        &self,
        store: &mut Store,
        id: MessageId,
    ) -> impl Future<Output = Result<Found, SourceError>> + Send;
}

/// Any error of a [`MessageSource`].
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// What a [`MessageSource`] found.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The message, with the id that the caller asked for ([`Message::with_id`]).
    Message(Message),
    /// The message was committed and is no longer wanted, because of a cancelled order for example.
    /// Final.
    Withdrawn {
        /// The reason, for a person.
        reason: String,
    },
    /// There is no such message.
    NotFound,
}

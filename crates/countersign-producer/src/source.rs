//! Where an upstream finds its messages again.

use countersign_protocol::MessageId;
use sqlx::PgConnection;

use crate::message::Message;

/// Finds messages again in the upstream's own data. The user writes it (or stores the messages
/// themselves: [`StoredMessages`](crate::StoredMessages)).
///
/// `Store` is what it is asked on: a connection to the Postgres database that the transactions are
/// in (its primary, read only here), or `()` for an upstream that keeps its data elsewhere.
pub trait MessageSource<Store = PgConnection>: Send + Sync + 'static {
    /// The message of this id, as it is to be sent now, made from committed data.
    ///
    /// # Errors
    /// When the data cannot be read. The caller is told to ask again.
    fn find(
        &self,
        store: &mut Store,
        id: MessageId,
    ) -> impl Future<Output = Result<Found, SourceError>> + Send;
}

/// Any error at all.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// What a [`MessageSource`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The message, with the id that was asked for ([`Message::with_id`]).
    Message(Message),
    /// It was committed and is no longer wanted, a cancelled order for example. Final.
    Withdrawn {
        /// Why, for a person.
        reason: String,
    },
    /// There is no such message.
    NotFound,
}

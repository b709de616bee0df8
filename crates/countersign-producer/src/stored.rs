//! Messages stored with their enlisted ids, for upstreams that do not want to write a `find`.

use countersign_protocol::MessageId;
use sqlx::PgConnection;

use crate::source::{Found, MessageSource, SourceError};
use crate::sql;

/// Finds the messages that [`store_messages`](crate::ProducerSettings::store_messages) stored.
///
/// The source sends a message as it was first sent, and never says "withdrawn". It does not find
/// messages that were enlisted without `store_messages`, or that are past retention.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoredMessages;

impl MessageSource for StoredMessages {
    async fn find(&self, store: &mut PgConnection, id: MessageId) -> Result<Found, SourceError> {
        match sql::stored_message(store, id).await? {
            Some((envelope, body)) => Ok(Found::Message(envelope.message(id, body)?)),
            None => Ok(Found::NotFound),
        }
    }
}

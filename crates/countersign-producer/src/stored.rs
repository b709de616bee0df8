//! Messages stored with their enlisted ids, for upstreams that would rather not write a `find`.

use countersign_protocol::MessageId;
use sqlx::PgConnection;

use crate::source::{Found, MessageSource, SourceError};
use crate::sql;

/// Finds the messages that [`store_messages`](crate::ProducerSettings::store_messages) stored.
///
/// It sends what was first meant to be sent, and never says "withdrawn". A message stored without it,
/// or past retention, is not found.
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

//! The handler: the part of a consumer that its user writes.

use sqlx::PgConnection;

use crate::delivery::Delivery;
use crate::failure::Failure;

/// Takes one message at a time.
///
/// `Store` is what its work is done on: a transaction on the Postgres database that the inbox is in,
/// or `()` for a consumer that keeps its data elsewhere (see
/// [`Consumer::without_inbox`](crate::Consumer::without_inbox)).
///
/// ```
/// # use countersign_consumer::{Delivery, Failure, Handler};
/// # use sqlx::PgConnection;
/// #[derive(serde::Deserialize)]
/// struct OrderPlaced {
///     name: String,
/// }
///
/// struct Greet;
///
/// impl Handler for Greet {
///     async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), Failure> {
///         let order: OrderPlaced = delivery.json()?; // not JSON: rejected, with the reason
///         sqlx::query("INSERT INTO greetings (name) VALUES ($1)")
///             .bind(&order.name)
///             .execute(tx)
///             .await?; // an error: rolled back and tried again later
///         Ok(())
///     }
/// }
/// ```
pub trait Handler<Store = PgConnection>: Send + Sync + 'static {
    /// Does the message's work, on the transaction that also holds its inbox row.
    ///
    /// What is written through `tx` takes effect once, however often the message is delivered. What
    /// is done elsewhere may be done again: a try whose transaction did not commit is repeated.
    /// The transaction is not the handler's to end: it runs no `COMMIT` and no `ROLLBACK`. Nor should
    /// it be left idle for long: Postgres ends it after the pool's `idle_in_transaction_timeout`.
    ///
    /// # Errors
    /// A [`Failure`] rolls everything back and says what becomes of the message. A panic counts as
    /// [`Failure::Retry`].
    ///
    /// # Cancel safety
    /// The future is dropped when the handler's timeout or the drain deadline passes; the transaction
    /// is then rolled back.
    fn handle(
        &self,
        tx: &mut Store,
        delivery: &Delivery,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Takes several messages in one transaction.
pub trait BatchHandler: Send + Sync + 'static {
    /// Does the work of all `deliveries` on the transaction that also holds their inbox rows. There
    /// is at least one, no id is there twice, and none has been processed before.
    ///
    /// Otherwise as [`Handler::handle`].
    ///
    /// # Errors
    /// A [`Failure`] rolls everything back; the messages are then handed in one by one, and what
    /// becomes of each is decided by itself.
    fn handle_batch(
        &self,
        tx: &mut PgConnection,
        deliveries: &[Delivery],
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A [`Handler`], as a [`BatchHandler`].
pub(crate) struct OneByOne<H>(pub(crate) H);

impl<H: Handler> BatchHandler for OneByOne<H> {
    async fn handle_batch(
        &self,
        tx: &mut PgConnection,
        deliveries: &[Delivery],
    ) -> Result<(), Failure> {
        for delivery in deliveries {
            self.0.handle(tx, delivery).await?;
        }
        Ok(())
    }
}

//! A shipment for each order.

use countersign_consumer::{Delivery, Failure, Handler};
use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::migrate::Migrator;
use uuid::Uuid;

/// What `orders` says when an order was placed.
#[derive(Debug, Deserialize)]
struct OrderPlaced {
    order_id: Uuid,
    name: String,
}

/// Ships orders.
pub(crate) struct Ship;

/// A name that does not fit a label violates a constraint of the table: that is an error like any
/// other, so it is tried again, and when it fails for the last time, the order waits in
/// `logistics.orders.dead` for a person.
impl Handler for Ship {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), Failure> {
        let order: OrderPlaced = delivery.json()?;
        sqlx::query("-- ship\nINSERT INTO shipments (order_id, name) VALUES ($1, $2)")
            .bind(order.order_id)
            .bind(order.name)
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// The tables of logistics.
pub(crate) fn migrator() -> Migrator {
    sqlx::migrate!("../../migrations/logistics")
}

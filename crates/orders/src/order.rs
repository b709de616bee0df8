//! An order, in the database and as the message that announces it. All SQL of orders is here.

use countersign_producer::{Found, Message, MessageId, MessageSource, SourceError};
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::migrate::Migrator;
use uuid::Uuid;

/// What the message says.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OrderPlaced {
    pub(crate) order_id: Uuid,
    pub(crate) name: String,
}

/// The exchange that orders are announced on.
pub(crate) const EXCHANGE: &str = "orders";

impl OrderPlaced {
    pub(crate) fn message(&self) -> Result<Message, serde_json::Error> {
        Message::json(EXCHANGE, "order.placed", "order.placed", self)
    }
}

pub(crate) async fn insert(
    tx: &mut PgConnection,
    order: &OrderPlaced,
    message_id: MessageId,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- insert_order\nINSERT INTO orders (order_id, message_id, name) VALUES ($1, $2, $3)",
    )
    .bind(order.order_id)
    .bind(message_id.uuid())
    .bind(&order.name)
    .execute(tx)
    .await?;
    Ok(())
}

/// Finds the message of an order again, from the order itself.
pub(crate) struct Orders;

impl MessageSource for Orders {
    async fn find(&self, tx: &mut PgConnection, id: MessageId) -> Result<Found, SourceError> {
        let found: Option<(Uuid, String, bool)> = sqlx::query_as(
            "-- find_order\nSELECT order_id, name, cancelled_at IS NOT NULL FROM orders WHERE message_id = $1",
        )
        .bind(id.uuid())
        .fetch_optional(tx)
        .await?;
        Ok(match found {
            None => Found::NotFound,
            Some((order_id, _, true)) => {
                Found::Withdrawn { reason: format!("order {order_id} was cancelled") }
            }
            Some((order_id, name, false)) => {
                Found::Message(OrderPlaced { order_id, name }.message()?.with_id(id))
            }
        })
    }
}

/// The tables of orders.
pub(crate) fn migrator() -> Migrator {
    sqlx::migrate!("../../migrations/orders")
}

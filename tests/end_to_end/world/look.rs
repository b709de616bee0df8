//! A test's view of its world: the ledger's answers, and the rows of the three databases.

use std::collections::BTreeSet;

use countersign_protocol::grpc::callback_client::CallbackClient;
use countersign_protocol::grpc::{GetMessageRequest, GetMessageResponse};
use countersign_testbed::{HEALED, Order, Overdue, counts, eventually};
use tonic::Status;
use tonic::transport::Channel;
use uuid::Uuid;

use super::{World, channel};

impl World {
    /// A client of the callback service.
    pub(crate) fn callback_channel(&self) -> Channel {
        channel(&self.callback)
    }

    /// The callback service's answer about a message.
    pub(crate) async fn message(&self, message_id: Uuid) -> Result<GetMessageResponse, Status> {
        let request = GetMessageRequest { message_id: message_id.to_string() };
        Ok(CallbackClient::new(channel(&self.callback)).get_message(request).await?.into_inner())
    }

    /// Waits until `GetMessage` gives this state; returns the whole answer.
    pub(crate) async fn is_in_state(&self, order: &Order, state: &str) -> GetMessageResponse {
        eventually(&format!("message {} is {state}", order.message_id), HEALED, async || match self
            .message(order.message_id)
            .await
        {
            Ok(message) if message.state == state => Ok(message),
            Ok(other) => Err(format!("{} ({})", other.state, other.reason)),
            Err(status) => Err(status.to_string()),
        })
        .await
    }

    /// Waits until an order is shipped.
    pub(crate) async fn shipped(&self, order: &Order) {
        eventually(&format!("order {} is shipped", order.order_id), HEALED, async || {
            self.shipments(order).await > 0
        })
        .await;
    }

    /// How many shipments an order has.
    pub(crate) async fn shipments(&self, order: &Order) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM shipments WHERE order_id = $1")
            .bind(order.order_id)
            .fetch_one(&self.databases.logistics)
            .await
            .expect("the number of shipments")
    }

    /// Every committed order.
    pub(crate) async fn committed_orders(&self) -> Vec<Order> {
        sqlx::query_as("SELECT order_id, message_id FROM orders")
            .fetch_all(&self.databases.orders)
            .await
            .expect("the committed orders")
    }

    /// The one committed order that there is.
    pub(crate) async fn only_committed_order(&self) -> Order {
        let orders = self.committed_orders().await;
        assert_eq!(orders.len(), 1, "{orders:?}");
        orders[0]
    }

    /// How many duplicates the inbox has seen.
    pub(crate) async fn duplicates(&self) -> i64 {
        sqlx::query_scalar("SELECT coalesce(sum(duplicates), 0)::bigint FROM countersign.inbox")
            .fetch_one(&self.databases.logistics)
            .await
            .expect("the number of duplicates")
    }

    /// Waits until the inbox has seen this many duplicates.
    pub(crate) async fn has_duplicates(&self, count: i64) {
        counts("duplicates that the inbox has seen", HEALED, count, || self.duplicates()).await;
    }

    /// Waits until there is one overdue row, in this state.
    pub(crate) async fn only_overdue_row_is(&self, state: &str) {
        eventually(&format!("the only overdue row is {state}"), HEALED, async || {
            let rows = self.overdue().await;
            if matches!(&*rows, [row] if row.state == state) { Ok(()) } else { Err(rows) }
        })
        .await;
    }

    /// Waits until a query of ids on the ledger finds all of these.
    pub(crate) async fn callback_finds(
        &self,
        what: &str,
        query: &'static str,
        ids: &BTreeSet<String>,
    ) {
        eventually(what, HEALED, async || {
            let found: Vec<String> = sqlx::query_scalar(query)
                .fetch_all(&self.databases.callback)
                .await
                .expect("the ids");
            let found: BTreeSet<String> = found.into_iter().collect();
            let missing: Vec<&String> = ids.difference(&found).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!(
                    "{} of {} are missing: {:?}",
                    missing.len(),
                    ids.len(),
                    missing.first()
                ))
            }
        })
        .await;
    }

    /// All overdue rows, open and closed, oldest message first.
    pub(crate) async fn overdue(&self) -> Vec<Overdue> {
        Overdue::all(&self.databases.callback).await.expect("the overdue rows")
    }

    /// The overdue rows of committed orders: an order that was refused may have left a check.
    pub(crate) async fn overdue_orders(&self) -> Vec<Overdue> {
        let orders = self.committed_orders().await;
        let is_committed =
            |row: &Overdue| orders.iter().any(|order| order.message_id == row.message_id);
        let mut rows = self.overdue().await;
        rows.retain(is_committed);
        rows
    }
}

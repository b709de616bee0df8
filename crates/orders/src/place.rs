//! Placing an order.

use countersign_postgres::{Trouble, trouble};
use countersign_producer::{ArmError, BeginError, CommitError, Publisher};
use sqlx::PgPool;
use tonic::{Request, Response, Status};
use tracing::{error, warn};
use uuid::Uuid;

use crate::grpc::orders_server::Orders;
use crate::grpc::{PlaceOrderRequest, PlaceOrderResponse};
use crate::order::{self, OrderPlaced};

/// Takes orders.
pub(crate) struct Counter {
    pub(crate) publisher: Publisher,
    pub(crate) pool: PgPool,
}

#[tonic::async_trait]
impl Orders for Counter {
    async fn place_order(
        &self,
        request: Request<PlaceOrderRequest>,
    ) -> Result<Response<PlaceOrderResponse>, Status> {
        let order = OrderPlaced { order_id: Uuid::now_v7(), name: request.into_inner().name };
        let message = order.message().map_err(|e| Status::internal(e.to_string()))?;
        let message_id = message.id();

        let armed = self.publisher.arm(message).map_err(|e| not_armed(&e))?;
        let mut tx = armed.begin(&self.pool).await.map_err(not_begun)?;
        order::insert(&mut tx, &order, message_id).await.map_err(|e| refused(&e))?;
        let committed = tx.commit().await.map_err(not_committed)?;
        committed.publish();

        Ok(Response::new(PlaceOrderResponse {
            order_id: order.order_id.to_string(),
            message_id: message_id.to_string(),
        }))
    }
}

fn not_armed(error: &ArmError) -> Status {
    match error {
        ArmError::Overloaded => Status::resource_exhausted(format!("{error}: try again later")),
        ArmError::Invalid { .. } => Status::invalid_argument(error.to_string()),
        _ => Status::unavailable(format!("{error}: nothing was ordered, try again later")),
    }
}

fn not_begun(error: BeginError) -> Status {
    match error {
        BeginError::Database { source, .. } => refused(&source),
        error => Status::aborted(format!("{error}: nothing was ordered")),
    }
}

fn refused(error: &sqlx::Error) -> Status {
    let constraint = error.as_database_error().and_then(|e| e.constraint());
    match (constraint, trouble(error)) {
        (Some("orders_name_is_said"), _) => Status::invalid_argument("name: say what is ordered"),
        (Some("orders_name_is_short"), _) => {
            Status::invalid_argument("name: at most 200 characters")
        }
        (_, Trouble::Data) => Status::invalid_argument(format!("name: {error}")),
        (_, Trouble::Again) => {
            warn!(%error, "the database is away or busy");
            Status::unavailable(
                "the database is away or busy: nothing was ordered, try again later",
            )
        }
        (_, Trouble::Other) => {
            error!(%error, "an order could not be written");
            Status::internal("nothing was ordered: see the log of orders")
        }
    }
}

fn not_committed(error: CommitError) -> Status {
    match error {
        CommitError::NotArmed(why) => {
            Status::unavailable(format!("{why}: nothing was ordered, try again later"))
        }
        CommitError::NotCommitted { source, .. } => refused(&source),
        error => Status::unknown(format!("{error}: look before you order again")),
    }
}

//! Placing an order.

use countersign_producer::{Error, ErrorKind, MessageId, Publisher};
use sqlx::PgPool;
use tonic::{Request, Response, Status};
use tracing::{error, warn};
use uuid::Uuid;

use crate::grpc::orders_server::Orders;
use crate::grpc::{PlaceOrderRequest, PlaceOrderResponse};
use crate::order::{self, OrderPlaced};

/// Takes orders.
pub(crate) struct OrderService {
    pub(crate) publisher: Publisher,
    pub(crate) pool: PgPool,
}

#[tonic::async_trait]
impl Orders for OrderService {
    async fn place_order(
        &self,
        request: Request<PlaceOrderRequest>,
    ) -> Result<Response<PlaceOrderResponse>, Status> {
        let order = OrderPlaced { order_id: Uuid::now_v7(), name: request.into_inner().name };
        let message_id = self.place(&order).await.map_err(|error| refused(&error))?;
        Ok(Response::new(PlaceOrderResponse {
            order_id: order.order_id.to_string(),
            message_id: message_id.to_string(),
        }))
    }
}

impl OrderService {
    async fn place(&self, order: &OrderPlaced) -> Result<MessageId, Error> {
        let message = order.message()?;
        let message_id = message.id();
        let armed = self.publisher.arm(message)?;
        let mut tx = armed.begin(&self.pool).await?;
        order::insert(&mut tx, order, message_id).await?;
        tx.commit().await?.publish();
        Ok(message_id)
    }
}

fn refused(error: &Error) -> Status {
    use ErrorKind as Kind;
    match (error.constraint(), error.kind()) {
        (Some("orders_name_is_said"), _) => Status::invalid_argument("name: say what is ordered"),
        (Some("orders_name_is_short"), _) => {
            Status::invalid_argument("name: at most 200 characters")
        }
        (_, Kind::Data) => Status::invalid_argument("name: it cannot be written down"),
        (_, Kind::Invalid) => Status::invalid_argument(error.to_string()),
        (_, Kind::Overloaded) => Status::resource_exhausted(format!("{error}: try again later")),
        (_, Kind::CommitUnknown) => {
            Status::unknown(format!("{error}: look before you order again"))
        }
        (_, Kind::AlreadyCommitted) => Status::already_exists(error.to_string()),
        (_, Kind::TooOld | Kind::Fenced) => {
            Status::aborted(format!("{error}: nothing was ordered"))
        }
        (_, kind) if error.is_retryable() || kind == Kind::Closed => {
            warn!(error = error as &dyn std::error::Error, "an order was refused");
            Status::unavailable(format!("{error}: nothing was ordered, try again later"))
        }
        _ => {
            error!(error = error as &dyn std::error::Error, "an order was refused");
            Status::internal("nothing was ordered: see the log of orders")
        }
    }
}

//! `ListConsumers`: how far each consumer is.

use countersign_protocol::grpc::ListConsumersResponse;
use countersign_protocol::grpc::list_consumers_response::Consumer;

use crate::ledger::Watched;
use crate::watch::consumers::{Doing, depth};

/// The answer: one consumer of one queue for each upstream.
#[must_use]
pub(crate) fn answer(consumers: Vec<Watched>) -> ListConsumersResponse {
    ListConsumersResponse { consumers: consumers.into_iter().map(consumer).collect() }
}

fn consumer(watched: Watched) -> Consumer {
    let doing = Doing::of(&watched);
    Consumer {
        state: doing.as_str().to_owned(),
        summary: doing.summary(watched.deferred),
        depth: depth(&watched),
        confirmed_up_to_ms: watched.confirmed_up_to_ms.unwrap_or(0),
        progressed_at_ms: watched.progressed_at_ms.unwrap_or(0),
        deferred: u64::try_from(watched.deferred).unwrap_or(0),
        consumer: watched.consumer,
        queue: watched.queue,
        upstream: watched.upstream,
    }
}

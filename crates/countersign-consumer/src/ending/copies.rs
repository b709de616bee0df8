//! Moving a message on inside the broker: a copy into a delay queue or the `.dead` queue, before the
//! delivery itself is acked.

use std::sync::Arc;
use std::time::Duration;

use countersign_amqp::{NotTaken, Outgoing, PublishOutcome, Publisher, header_bytes};
use countersign_protocol::topology::{dead_queue, retry_queue};
use countersign_protocol::{HeaderValue, Headers, header};
use countersign_retry::Pulse;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::delivery::Raw;
use crate::task_retry::{Shared, TaskRetry};

/// Places copies in their queues. A clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Copies {
    publisher: Publisher,
    trouble: Arc<Shared>,
    stopping: CancellationToken,
}

impl Copies {
    pub(crate) fn new(publisher: Publisher, pulse: &Pulse, stopping: CancellationToken) -> Self {
        Self { publisher, trouble: Arc::new(Shared::new(pulse)), stopping }
    }

    /// Publishes the copy until it stands in its queue; `false` if the consumer stops before that.
    ///
    /// # Cancel safety
    /// The copy may stand in its queue all the same: the message is then there twice, which the inbox
    /// absorbs.
    pub(crate) async fn place(&self, copy: Outgoing) -> bool {
        let mut retry = TaskRetry::new(&self.trouble);
        loop {
            let why = match self.publisher.publish(copy.clone()) {
                Ok(pending) => match pending.await {
                    PublishOutcome::Routed => return true,
                    PublishOutcome::Unroutable { why } => format!("it goes nowhere: {why}"),
                    PublishOutcome::Refused => "the queue is full".to_owned(),
                    PublishOutcome::Unknown { why } => why,
                },
                Err(NotTaken::Closed) => return false,
                Err(why) => why.to_string(),
            };
            if retry.is_news(&why) {
                let message_id = copy.properties.message_id.as_deref();
                warn!(message_id, queue = copy.key, why, "cannot move a message on: holding it");
            }
            tokio::select! {
                () = retry.pause() => {}
                () = self.stopping.cancelled() => return false,
            }
        }
    }

    /// Sends the copies that were handed over, within the deadline.
    pub(crate) async fn close(&self, deadline: Duration) {
        self.publisher.close(deadline).await;
    }
}

/// The copy that waits for `delay`, then comes back.
pub(crate) fn waiting(raw: Raw, queue: &str, delay: Duration, failures: u32) -> Outgoing {
    let mut copy = to_queue(raw, retry_queue(queue, delay));
    let failures = HeaderValue::Integer(failures.into());
    copy.properties.headers.set(header::FAILURES, failures);
    copy
}

/// The copy that stays in the `.dead` queue for an operator. An operator who puts it back gives it all its
/// tries again, so it carries no count of failures: the reason says how often the handler failed.
pub(crate) fn dead(raw: Raw, queue: &str, reason: &str) -> Outgoing {
    let mut copy = to_queue(raw, dead_queue(queue));
    let mut headers = Headers::new().with_text(header::REASON, reason);
    for (name, value) in copy.properties.headers.iter() {
        if name != header::FAILURES && name != header::REASON {
            headers.set(name, value.clone());
        }
    }
    copy.properties.headers = headers;
    copy
}

/// A copy for the default exchange, which routes to the queue that has the key's name.
fn to_queue(raw: Raw, queue: String) -> Outgoing {
    let (mut properties, body) = raw.into_copy();
    properties.headers = fitting(&properties.headers);
    Outgoing { exchange: String::new(), key: queue, properties, body }
}

/// Room for the headers that a copy takes along, in bytes: below the 32 KiB that a publisher sends, so that a
/// reason fits as well.
const MAX_HEADER_BYTES: usize = 24 * 1024;

/// The headers that fit, the contract's own first. RabbitMQ accepts 128 KiB of headers from a publisher; a copy
/// of such a message could otherwise never be published, and the consumer would hold the message for ever.
fn fitting(headers: &Headers) -> Headers {
    let is_own = |name: &str| name.starts_with("countersign-") || name == header::TRACEPARENT;
    let own = headers.iter().filter(|(name, _)| is_own(name));
    let others = headers.iter().filter(|(name, _)| !is_own(name));
    let mut fitting = Headers::new();
    let mut room = MAX_HEADER_BYTES;
    for (name, value) in own.chain(others) {
        if let Some(left) = room.checked_sub(header_bytes(name, value)) {
            room = left;
            fitting.set(name, value.clone());
        }
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_do_not_fit_stay_behind_and_the_contracts_own_come_along() {
        let mut headers = Headers::new().with_integer(header::ATTEMPT, 2);
        headers.set("aa", HeaderValue::Text("x".repeat(60_000)));
        headers.set("ab", HeaderValue::Text("x".repeat(20_000)));
        headers.set("ac", HeaderValue::Text("x".repeat(20_000)));
        headers.set("tenant", HeaderValue::Text("acme".to_owned()));
        let fitting = fitting(&headers);
        let names: Vec<_> = fitting.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["ab", header::ATTEMPT, "tenant"]);
    }
}

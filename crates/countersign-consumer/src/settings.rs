//! The settings of a consumer: its name, its queue, and how hard it works.

use std::time::Duration;

use countersign_protocol::topology::{ExchangeKind, Topology};
use countersign_protocol::{Name, window};

use crate::after_try::RetryPolicy;
use crate::error::Error;

/// The settings of a consumer. Begin with [`ConsumerSettings::new`] and change what has to be changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsumerSettings {
    /// The consumer's name. Checks list consumers by it, and the inbox keeps messages by it: a consumer
    /// that is renamed forgets which messages it has processed.
    pub name: Name,
    /// The queue that is consumed. It is declared with `<queue>.dead` and the delay queues.
    pub queue: String,
    /// What the queue is bound to; the exchanges are declared, too.
    pub bindings: Vec<Binding>,
    /// How many handlers run at once. Each holds a database connection: the pool needs as many. Too
    /// low leaves the database idle, too high makes it queue. Default 20.
    pub concurrency: usize,
    /// How many deliveries are held at once, un-acked ones included, 1 to 2,000. Too low leaves
    /// handlers idle while confirms are under way; too high takes work away from other replicas.
    /// Default (`None`) 10 for each handler, or two batches, up to 2,000.
    pub prefetch: Option<u16>,
    /// How many messages a [`BatchHandler`](crate::BatchHandler) gets at most in one transaction.
    /// A batch takes the messages that are there and never waits to be full. Default 100.
    pub max_batch: usize,
    /// How long a message waits after its first failure, after its second, and so on; when it fails
    /// after the last, it ends in `<queue>.dead`. Each needs a queue of its own; from 1 ms to 24 h.
    /// Default 1 s and 10 s: three attempts in all.
    pub retry_delays: Vec<Duration>,
    /// How long a handler may take, a batch as a whole. After that the handler is dropped where it waits, its
    /// transaction is rolled back, and the message is tried again later. Keep it below the broker's
    /// `consumer_timeout` (30 min). Default `None`: as long as it likes, while the server has its
    /// transaction. Set it where handlers are quick: it also ends those that wait for a database that is
    /// gone without a word, which otherwise end when the server has ended the transaction
    /// (`idle_in_transaction_session_timeout`) and a few seconds later.
    pub handler_timeout: Option<Duration>,
    /// How long the inbox remembers. A message whose id is older is not processed. It must be more
    /// than the longest time that a message can be resent or lie in a queue. Default 30 days.
    pub retention: Duration,
    /// Over how many shards confirms are spread. The callback service says how many there are; one
    /// that it does not have is no loss. Default 1.
    pub confirm_shards: u16,
    /// How long a blocked broker may keep confirms back before the consumer acks messages without them: a
    /// consumer that cannot ack keeps a memory alarm alive. The confirms follow later; a confirm that is lost
    /// costs a resend. Too low costs resends at every short alarm, too high holds the queues still. Default 10 s.
    pub blocked_grace: Duration,
    /// How many confirms may wait for the broker. Each takes about 500 bytes; too low makes deliveries wait for
    /// confirms while the broker is away. Default 10,000.
    pub max_unconfirmed: usize,
    /// How long after the shutdown signal running handlers may take to finish, and confirms and
    /// acks to leave. Then the rest is rolled back and delivered again. Default 7 s.
    pub drain: Duration,
}

/// An exchange, and the key with which the queue is bound to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The exchange.
    pub exchange: String,
    /// How it routes.
    pub kind: ExchangeKind,
    /// The key.
    pub key: String,
}

/// Quorum queues take no more (<https://www.rabbitmq.com/docs/quorum-queues#global-qos>).
const MAX_PREFETCH: usize = 2_000;

impl ConsumerSettings {
    /// The consumer `name` on `queue`, everything else as it usually is.
    #[must_use]
    pub fn new(name: Name, queue: &str) -> Self {
        Self {
            name,
            queue: queue.to_owned(),
            bindings: Vec::new(),
            concurrency: 20,
            prefetch: None,
            max_batch: 100,
            retry_delays: vec![Duration::from_secs(1), Duration::from_secs(10)],
            handler_timeout: None,
            retention: Duration::from_secs(30 * 24 * 60 * 60),
            confirm_shards: 1,
            blocked_grace: Duration::from_secs(10),
            max_unconfirmed: 10_000,
            drain: Duration::from_secs(7),
        }
    }

    /// Binds the queue to an exchange, too.
    #[must_use]
    pub fn bound_to(mut self, exchange: &str, kind: ExchangeKind, key: &str) -> Self {
        let (exchange, key) = (exchange.to_owned(), key.to_owned());
        self.bindings.push(Binding { exchange, kind, key });
        self
    }

    /// Every mistake in the settings at once.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut mistakes = Vec::new();
        let mut demand = |right: bool, mistake: &str| {
            if !right {
                mistakes.push(mistake.to_owned());
            }
        };
        // The longest name of a queue is 255 bytes, and the delay queues' are longer than this one.
        demand(
            !self.queue.is_empty() && self.queue.len() <= 220,
            "queue: a name of 1 to 220 bytes is needed",
        );
        demand(
            !self.queue.chars().any(char::is_control),
            "queue: control characters cannot be in its name",
        );
        demand(self.concurrency >= 1, "concurrency: at least one handler has to run");
        demand(self.max_batch >= 1, "max_batch: at least one message has to be in a batch");
        demand(
            self.prefetch.is_none_or(|n| (1..=MAX_PREFETCH).contains(&usize::from(n))),
            "prefetch: 1 to 2000 are possible with quorum queues",
        );
        demand(
            self.retry_delays
                .iter()
                .all(|delay| delay.as_millis() >= 1 && *delay <= window::MAX_AHEAD),
            "retry_delays: each has to be from 1 ms to 24 h",
        );
        demand(self.confirm_shards >= 1, "confirm_shards: there is at least shard 0");
        demand(self.max_unconfirmed >= 1, "max_unconfirmed: at least one confirm has to fit");
        if mistakes.is_empty() { Ok(()) } else { Err(Error::Settings(mistakes)) }
    }

    /// How many deliveries are held at once, when at most `batch` share a transaction.
    pub(crate) fn prefetch(&self, batch: usize) -> u16 {
        let usual = || {
            let busy = self.concurrency.saturating_mul(10.max(batch.saturating_mul(2)));
            u16::try_from(busy.clamp(1, MAX_PREFETCH)).expect("2,000 fit into a u16")
        };
        self.prefetch.unwrap_or_else(usual)
    }

    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy { retry_delays: self.retry_delays.clone() }
    }

    /// The queues, exchanges and bindings that the consumer declares.
    pub(crate) fn topology(&self) -> Topology {
        let mut topology = Topology::consumed(&self.queue, &self.retry_delays);
        for Binding { exchange, kind, key } in &self.bindings {
            topology =
                topology.with_exchange(exchange, *kind).with_binding(exchange, key, &self.queue);
        }
        topology
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ConsumerSettings {
        ConsumerSettings::new("logistics".parse().unwrap(), "logistics.orders")
    }

    #[test]
    fn the_usual_settings_are_right_and_give_three_attempts() {
        let settings = settings();
        settings.check().unwrap();
        assert_eq!(settings.retry_delays.len() + 1, 3);
        assert_eq!(settings.prefetch(1), 200);
    }

    #[test]
    fn the_prefetch_holds_two_batches_for_each_handler_within_what_a_quorum_queue_takes() {
        let mut settings = settings();
        settings.concurrency = 4;
        assert_eq!(settings.prefetch(1), 40);
        assert_eq!(settings.prefetch(100), 800);
        assert_eq!(settings.prefetch(1_000), 2_000);
        settings.prefetch = Some(7);
        assert_eq!(settings.prefetch(100), 7);
    }

    #[test]
    fn every_mistake_is_named() {
        let mut settings = settings();
        settings.queue = String::new();
        settings.concurrency = 0;
        settings.max_batch = 0;
        settings.prefetch = Some(2_001);
        settings.retry_delays = vec![Duration::ZERO, Duration::from_secs(25 * 60 * 60)];
        settings.confirm_shards = 0;
        settings.max_unconfirmed = 0;
        let Err(Error::Settings(mistakes)) = settings.check() else {
            panic!("all of them are wrong")
        };
        for field in [
            "queue",
            "concurrency",
            "max_batch",
            "prefetch",
            "retry_delays",
            "confirm_shards",
            "max_unconfirmed",
        ] {
            let named = mistakes.iter().filter(|m| m.starts_with(&format!("{field}: "))).count();
            assert_eq!(named, 1, "{field} in {mistakes:?}");
        }
    }

    #[test]
    fn the_queue_is_bound_to_every_exchange_that_was_named() {
        let settings = settings().bound_to("orders", ExchangeKind::Topic, "order.placed").bound_to(
            "returns",
            ExchangeKind::Direct,
            "return",
        );
        let topology = settings.topology();
        let bound: Vec<_> = topology.bindings.iter().map(|b| (&*b.exchange, &*b.key)).collect();
        assert_eq!(bound, [("orders", "order.placed"), ("returns", "return")]);
        let queues: Vec<_> = topology.queues.iter().map(|q| &*q.name).collect();
        assert_eq!(
            queues,
            [
                "logistics.orders",
                "logistics.orders.dead",
                "logistics.orders.retry.1s",
                "logistics.orders.retry.10s"
            ]
        );
    }
}

//! Every exchange, queue and binding of the contract, as plain data.
//!
//! All of it is durable, and all queues are quorum queues.

use std::time::Duration;

use crate::tier::Tier;

/// Where checks are published, with the tier as key. It has no alternate exchange: an unknown tier
/// has to be *returned*, because that means "not armed". (A `mandatory` publish to an exchange with
/// an alternate exchange is acked and never returned: reproduced on 3.10.8.)
pub const CHECK: &str = "countersign.check";
/// Where the broker publishes checks whose delay is over; also the name of the queue that they go to.
pub const CHECK_DUE: &str = "countersign.check.due";
/// Where confirms are published, with a shard's number as key.
pub const CONFIRM: &str = "countersign.confirm";
/// Where confirms of an unknown shard go: to shard 0.
pub const CONFIRM_FALLBACK: &str = "countersign.confirm.fallback";
/// Where upstreams publish rolled-back notices; also the name of the queue that they go to.
pub const ROLLED_BACK: &str = "countersign.rolled_back";
/// Where the callback service publishes envelopes that it cannot read; also the name of the queue that keeps them.
pub const QUARANTINE: &str = "countersign.quarantine";

/// Far above the 20 deliveries after which RabbitMQ 4.0 to 4.2 drop a message: there every crash of
/// a consumer counts (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>).
pub const DELIVERY_LIMIT: i64 = 100_000;
/// The most check messages in one wait queue; past that, the broker refuses to arm. A check message
/// carries up to 1,000 checks. The limit bounds the broker's disk while the callback service is away.
pub const MAX_WAITING_CHECKS: i64 = 1_000_000;
/// The most rolled-back notices that wait; past that, the broker drops the oldest, which costs a call for each
/// of its entries.
pub const MAX_ROLLED_BACK: i64 = 100_000;
/// The most messages in quarantine; past that, the broker drops the oldest: a sender of garbage must not fill the
/// broker's disk.
pub const MAX_QUARANTINED: i64 = 100_000;

/// Exchanges, queues and bindings, in the order in which they can be declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Declared first.
    pub exchanges: Vec<Exchange>,
    /// Declared second.
    pub queues: Vec<Queue>,
    /// Declared last.
    pub bindings: Vec<Binding>,
}

/// A durable exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
    /// The exchange for messages that this one cannot route.
    pub alternate: Option<String>,
}

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By the exact key.
    Direct,
    /// To everything bound.
    Fanout,
    /// By patterns over the dot-separated key.
    Topic,
}

/// A durable quorum queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its arguments, `x-queue-type` aside.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// The value of a queue's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A number.
    Integer(i64),
    /// A boolean.
    Boolean(bool),
}

/// A queue's binding to an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The exchange that messages come from.
    pub exchange: String,
    /// The key that they carry.
    pub key: String,
    /// The queue that they go to.
    pub queue: String,
}

impl Topology {
    /// What an upstream needs to arm checks and to publish rolled-back notices: the exchanges alone. The callback
    /// service declares the wait queues, so that an upstream notices when there is no callback service.
    #[must_use]
    pub fn arming() -> Self {
        Self {
            exchanges: vec![
                exchange(CHECK, ExchangeKind::Direct),
                exchange(ROLLED_BACK, ExchangeKind::Fanout),
            ],
            ..Self::default()
        }
    }

    /// What a consumer needs to confirm: the exchanges and shard 0. Confirms wait there until there
    /// is a callback service.
    #[must_use]
    pub fn confirming() -> Self {
        Self::confirms(1)
    }

    /// What the callback service needs: wait queues for these tiers, this many confirm shards, and
    /// the quarantine.
    #[must_use]
    pub fn callback(tiers: &[Tier], confirm_shards: u16) -> Self {
        Self::quarantine()
            .and(Self::checks(tiers))
            .and(Self::rolled_back())
            .and(Self::confirms(confirm_shards.max(1)))
    }

    /// What one consumer's queue needs: the queue, where its dead letters go, and a wait queue for
    /// each delay after which a failed delivery comes back.
    ///
    /// The exchange that it is bound to is the user's, and not part of this.
    #[must_use]
    pub fn consumed(queue: &str, retry_delays: &[Duration]) -> Self {
        let mut queues = vec![Queue {
            name: queue.to_owned(),
            arguments: consumed_queue(&dead_queue(queue), ""),
        }];
        queues.push(Queue { name: dead_queue(queue), arguments: vec![delivery_limit()] });
        for &delay in retry_delays {
            queues.push(Queue {
                name: retry_queue(queue, delay),
                arguments: wait_queue(delay, "", Some(queue)),
            });
        }
        Self { queues, ..Self::default() }
    }

    fn checks(tiers: &[Tier]) -> Self {
        let mut topology = Self::arming().and(Self {
            exchanges: vec![exchange(CHECK_DUE, ExchangeKind::Fanout)],
            queues: vec![Queue {
                name: CHECK_DUE.to_owned(),
                arguments: consumed_queue("", QUARANTINE),
            }],
            bindings: vec![binding(CHECK_DUE, "", CHECK_DUE)],
        });
        for tier in tiers {
            let name = format!("countersign.check.wait.{tier}");
            topology.bindings.push(binding(CHECK, &tier.to_string(), &name));
            let mut arguments = wait_queue(tier.delay(), CHECK_DUE, None);
            arguments.push(("x-max-length", Argument::Integer(MAX_WAITING_CHECKS)));
            topology.queues.push(Queue { name, arguments });
        }
        topology
    }

    /// Notices are worth no more than a call each: they need not be dead-lettered, and when there are
    /// too many, the oldest go.
    fn rolled_back() -> Self {
        Self {
            exchanges: vec![exchange(ROLLED_BACK, ExchangeKind::Fanout)],
            queues: vec![Queue {
                name: ROLLED_BACK.to_owned(),
                arguments: vec![
                    delivery_limit(),
                    ("x-max-length", Argument::Integer(MAX_ROLLED_BACK)),
                ],
            }],
            bindings: vec![binding(ROLLED_BACK, "", ROLLED_BACK)],
        }
    }

    fn confirms(shards: u16) -> Self {
        let mut topology = Self::quarantine().and(Self {
            exchanges: vec![
                exchange(CONFIRM_FALLBACK, ExchangeKind::Fanout),
                Exchange {
                    alternate: Some(CONFIRM_FALLBACK.to_owned()),
                    ..exchange(CONFIRM, ExchangeKind::Direct)
                },
            ],
            queues: Vec::new(),
            bindings: vec![binding(CONFIRM_FALLBACK, "", &confirm_queue(0))],
        });
        for shard in 0..shards {
            let name = confirm_queue(shard);
            topology.bindings.push(binding(CONFIRM, &shard.to_string(), &name));
            let mut arguments = consumed_queue("", QUARANTINE);
            arguments.push(("x-single-active-consumer", Argument::Boolean(true)));
            topology.queues.push(Queue { name, arguments });
        }
        topology
    }

    fn quarantine() -> Self {
        Self {
            exchanges: vec![exchange(QUARANTINE, ExchangeKind::Fanout)],
            queues: vec![Queue {
                name: QUARANTINE.to_owned(),
                arguments: vec![
                    delivery_limit(),
                    ("x-max-length", Argument::Integer(MAX_QUARANTINED)),
                ],
            }],
            bindings: vec![binding(QUARANTINE, "", QUARANTINE)],
        }
    }

    /// Adds an exchange.
    #[must_use]
    pub fn with_exchange(mut self, name: &str, kind: ExchangeKind) -> Self {
        self.exchanges.push(exchange(name, kind));
        self
    }

    /// Adds a binding.
    #[must_use]
    pub fn with_binding(mut self, exchange: &str, key: &str, queue: &str) -> Self {
        self.bindings.push(binding(exchange, key, queue));
        self
    }

    /// Both topologies; an item that is in both stands once.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        add_new(&mut self.exchanges, other.exchanges);
        add_new(&mut self.queues, other.queues);
        add_new(&mut self.bindings, other.bindings);
        self
    }
}

fn add_new<T: PartialEq>(to: &mut Vec<T>, from: Vec<T>) {
    for item in from {
        if !to.contains(&item) {
            to.push(item);
        }
    }
}

/// The queue of a confirm shard.
#[must_use]
pub fn confirm_queue(shard: u16) -> String {
    format!("{CONFIRM}.{shard}")
}

/// The queue for deliveries of `queue` that its consumer gave up.
#[must_use]
pub fn dead_queue(queue: &str) -> String {
    format!("{queue}.dead")
}

/// The queue where failed deliveries of `queue` wait for `delay`.
#[must_use]
pub fn retry_queue(queue: &str, delay: Duration) -> String {
    let whole_seconds = delay.subsec_millis() == 0;
    let delay = if whole_seconds {
        format!("{}s", delay.as_secs())
    } else {
        format!("{}ms", delay.as_millis())
    };
    format!("{queue}.retry.{delay}")
}

/// Dead letters leave a queue at least once only if the full queue itself rejects publishes
/// (<https://www.rabbitmq.com/docs/quorum-queues#dead-lettering>).
fn at_least_once(exchange: &str) -> Vec<(&'static str, Argument)> {
    vec![
        ("x-dead-letter-exchange", Argument::Text(exchange.to_owned())),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ]
}

/// A queue whose messages stay for `delay`, then go on.
fn wait_queue(delay: Duration, exchange: &str, key: Option<&str>) -> Vec<(&'static str, Argument)> {
    let mut arguments = at_least_once(exchange);
    if let Some(key) = key {
        arguments.push(("x-dead-letter-routing-key", Argument::Text(key.to_owned())));
    }
    let ttl = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    arguments.push(("x-message-ttl", Argument::Integer(ttl)));
    arguments
}

/// The arguments of a queue with a consumer; messages that the broker gives up go to `exchange`, or, if that is
/// the default exchange (""), to the queue `key`.
fn consumed_queue(key: &str, exchange: &str) -> Vec<(&'static str, Argument)> {
    let mut arguments = at_least_once(exchange);
    if exchange.is_empty() {
        arguments.push(("x-dead-letter-routing-key", Argument::Text(key.to_owned())));
    }
    arguments.push(delivery_limit());
    arguments
}

/// Queues that only operators look at have it, too: a look that puts the message back counts as a delivery,
/// and after 20 of them RabbitMQ 4.0 to 4.2 would drop the message.
fn delivery_limit() -> (&'static str, Argument) {
    ("x-delivery-limit", Argument::Integer(DELIVERY_LIMIT))
}

fn exchange(name: &str, kind: ExchangeKind) -> Exchange {
    Exchange { name: name.to_owned(), kind, alternate: None }
}

fn binding(exchange: &str, key: &str, queue: &str) -> Binding {
    Binding { exchange: exchange.to_owned(), key: key.to_owned(), queue: queue.to_owned() }
}

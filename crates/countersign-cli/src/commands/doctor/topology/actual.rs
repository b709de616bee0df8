//! The exchanges, queues and bindings that the broker has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// What the broker has, by name; the counterpart of the [`Topology`](countersign_protocol::Topology)
/// that it needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActualTopology {
    pub(crate) exchanges: BTreeMap<String, ActualExchange>,
    pub(crate) queues: BTreeMap<String, ActualQueue>,
    /// Exchange, key, queue.
    pub(crate) bindings: BTreeSet<(String, String, String)>,
}

/// An exchange that the broker has.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActualExchange {
    pub(crate) kind: String,
    pub(crate) durable: bool,
    /// From the exchange's argument, or from a policy where it has none: the argument wins.
    pub(crate) alternate: Option<String>,
}

/// A queue that the broker has.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActualQueue {
    pub(crate) kind: String,
    pub(crate) durable: bool,
    pub(crate) arguments: Map<String, Value>,
    /// The user's and the operator's policy, merged by the broker.
    pub(crate) policy: Map<String, Value>,
    /// Names of the policies that apply.
    pub(crate) policies: Vec<String>,
    pub(crate) consumers: u64,
    pub(crate) leader: Option<String>,
    /// Nodes that hold a replica, and those of them that are up.
    pub(crate) members: usize,
    pub(crate) online: usize,
    pub(crate) ready: u64,
    pub(crate) unacked: u64,
}

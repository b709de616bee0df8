//! What became of every order, from what the three databases say.
//!
//! The demo and the end-to-end tests count with the same code. It counts nothing while the services
//! run: each figure is read from the tables at the end.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgPool;
use uuid::Uuid;

/// A committed order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Order {
    /// The order's key in the orders database.
    pub order_id: Uuid,
    /// The message that announces the order.
    pub message_id: Uuid,
}

/// A row of the ledger's table `overdue`.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Overdue {
    /// The message's id.
    pub message_id: Uuid,
    /// The row's state: see `docs/states.md`.
    pub state: String,
    /// The reason for its last change.
    pub reason: String,
    /// Resends that the callback service asked for.
    pub resends: i32,
}

/// The contents of the three databases, as far as orders are concerned.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Database `orders`, table `orders`: every committed order.
    pub orders: Vec<Order>,
    /// Database `logistics`, table `shipments`: how many shipments each order has.
    pub shipments: BTreeMap<Uuid, u64>,
    /// Database `logistics`, table `countersign.inbox`: deliveries of messages that had taken effect.
    pub duplicates_suppressed: u64,
    /// Database `callback`, table `overdue`: its rows by message.
    pub overdue: BTreeMap<Uuid, Overdue>,
}

/// The sums over all orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Committed orders.
    pub placed: u64,
    /// Committed orders with at least one shipment.
    pub shipped: u64,
    /// Orders with more than one shipment, and how many.
    pub doubled: Vec<(Uuid, u64)>,
    /// Orders with a shipment that were never committed.
    pub unordered: Vec<Uuid>,
    /// Resends that the callback service asked for.
    pub resends: u64,
    /// Deliveries of messages that had taken effect: only confirmed again.
    pub duplicates_suppressed: u64,
    /// Committed orders whose message is parked, with a reason.
    pub parked: u64,
    /// Committed orders whose message the upstream withdrew, with a reason.
    pub withdrawn: u64,
    /// Committed orders neither shipped nor parked nor withdrawn.
    pub lost: Vec<Lost>,
}

/// An order without shipment, parked message or withdrawal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The order.
    pub order: Order,
    /// The ledger's state of its message, if there is one.
    pub overdue: Option<Overdue>,
}

impl Books {
    /// Reads the books from the databases of orders, logistics and the callback service.
    ///
    /// # Errors
    /// If a database does not answer, or lacks the tables that its service makes.
    pub async fn read(
        orders: &PgPool,
        logistics: &PgPool,
        callback: &PgPool,
    ) -> Result<Self, sqlx::Error> {
        const ORDERS: &str = "\
            -- every order
            SELECT order_id, message_id FROM orders";
        const SHIPMENTS: &str = "\
            -- every shipment
            SELECT order_id, count(*) FROM shipments GROUP BY order_id";
        const DUPLICATES: &str = "\
            -- duplicates suppressed
            SELECT coalesce(sum(duplicates), 0)::bigint FROM countersign.inbox";
        // Orders are read first: an order whose shipment the second query sees was committed before
        // the first, unless it is placed meanwhile.
        let orders: Vec<Order> = sqlx::query_as(ORDERS).fetch_all(orders).await?;
        let shipments: Vec<(Uuid, i64)> = sqlx::query_as(SHIPMENTS).fetch_all(logistics).await?;
        let duplicates = sqlx::query_scalar(DUPLICATES).fetch_one(logistics).await?;
        let overdue = Overdue::all(callback).await?;
        Ok(Self {
            orders,
            shipments: shipments.into_iter().map(|(order, n)| (order, unsigned(n))).collect(),
            duplicates_suppressed: unsigned(duplicates),
            overdue: overdue.into_iter().map(|row| (row.message_id, row)).collect(),
        })
    }

    /// Counts the books.
    #[must_use]
    pub fn audit(&self) -> Audit {
        let mut audit = Audit {
            placed: count(self.orders.len()),
            resends: self.overdue.values().map(|row| unsigned(row.resends.into())).sum(),
            duplicates_suppressed: self.duplicates_suppressed,
            ..Audit::default()
        };
        for &order in &self.orders {
            let overdue = self.overdue.get(&order.message_id);
            let is_shipped = self.shipments.contains_key(&order.order_id);
            let is_parked = overdue.is_some_and(|row| row.ended_as("parked"));
            let is_withdrawn = overdue.is_some_and(|row| row.ended_as("withdrawn"));
            audit.shipped += u64::from(is_shipped);
            audit.parked += u64::from(is_parked);
            audit.withdrawn += u64::from(is_withdrawn);
            if !is_shipped && !is_parked && !is_withdrawn {
                audit.lost.push(Lost { order, overdue: overdue.cloned() });
            }
        }
        let committed: BTreeSet<Uuid> = self.orders.iter().map(|order| order.order_id).collect();
        for (&order_id, &shipments) in &self.shipments {
            if shipments > 1 {
                audit.doubled.push((order_id, shipments));
            }
            if !committed.contains(&order_id) {
                audit.unordered.push(order_id);
            }
        }
        audit
    }
}

impl Audit {
    /// Shipments beyond the first of an order.
    #[must_use]
    pub fn doubled_effects(&self) -> u64 {
        self.doubled.iter().map(|(_, shipments)| shipments - 1).sum()
    }

    /// Every breach of the promise, a line for each order.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let lost = self.lost.iter().map(ToString::to_string);
        let doubled = self.doubled.iter().map(|(id, n)| format!("order {id} is shipped {n} times"));
        let unordered = self
            .unordered
            .iter()
            .map(|id| format!("order {id} is shipped and was never committed"));
        lost.chain(doubled).chain(unordered).collect()
    }
}

impl Overdue {
    /// All rows, open and closed, oldest message first.
    ///
    /// # Errors
    /// If the database does not answer, or has no such table.
    pub async fn all(callback: &PgPool) -> Result<Vec<Self>, sqlx::Error> {
        const OVERDUE: &str = "\
            -- every overdue message
            SELECT message_id, state, reason, resends FROM overdue ORDER BY message_id";
        sqlx::query_as(OVERDUE).fetch_all(callback).await
    }

    /// Whether a person can read why the message ended in this state.
    fn ended_as(&self, state: &str) -> bool {
        self.state == state && !self.reason.is_empty()
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Order { order_id, message_id } = self.order;
        write!(f, "order {order_id}, message {message_id}, is neither shipped nor parked; ")?;
        match &self.overdue {
            None => write!(f, "the ledger does not know it"),
            Some(Overdue { state, reason, .. }) if reason.is_empty() => {
                write!(f, "the ledger says {state} without a reason")
            }
            Some(Overdue { state, reason, resends, .. }) => {
                write!(f, "the ledger says {state} after {resends} resends: {reason}")
            }
        }
    }
}

/// Counts come from Postgres as `bigint`, and are never negative.
fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

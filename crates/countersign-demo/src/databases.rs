//! The services' databases during the demo. All SQL of the demo; the audit's is the testbed's.

use anyhow::{Context as _, Result};
use countersign_testbed::{Books, PostgresAddress};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

/// The three databases, seen from outside.
#[derive(Debug)]
pub(crate) struct Databases {
    orders: PgPool,
    logistics: PgPool,
    callback: PgPool,
}

/// The progress of the orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Committed orders.
    pub(crate) placed: u64,
    /// Orders with a shipment.
    pub(crate) shipped: u64,
    /// Overdue messages not yet confirmed, closed or parked.
    pub(crate) open: u64,
    /// Resends asked for.
    pub(crate) resends: u64,
}

impl Databases {
    pub(crate) async fn connect(server: &PostgresAddress) -> Result<Self> {
        let pool = async |name: &str| {
            let url = server.url(name);
            let pool = PgPoolOptions::new().max_connections(2).connect(&url).await;
            pool.with_context(|| format!("no connection to database {name}"))
        };
        let (orders, logistics, callback) =
            tokio::try_join!(pool("orders"), pool("logistics"), pool("callback"))?;
        Ok(Self { orders, logistics, callback })
    }

    /// Counts the current rows.
    pub(crate) async fn progress(&self) -> Result<Progress> {
        const PLACED: &str = "\
            -- placed
            SELECT count(*) FROM orders";
        const SHIPPED: &str = "\
            -- shipped
            SELECT count(DISTINCT order_id) FROM shipments";
        const LEDGER: &str = "\
            -- ledger
            SELECT count(*) FILTER (WHERE state IN ('waiting', 'asking')),
                coalesce(sum(resends), 0)::bigint
            FROM overdue";
        let (placed, shipped, (open, resends)): ((i64,), (i64,), (i64, i64)) = tokio::try_join!(
            sqlx::query_as(PLACED).fetch_one(&self.orders),
            sqlx::query_as(SHIPPED).fetch_one(&self.logistics),
            sqlx::query_as(LEDGER).fetch_one(&self.callback),
        )?;
        Ok(Progress {
            placed: counted(placed.0),
            shipped: counted(shipped.0),
            open: counted(open),
            resends: counted(resends),
        })
    }

    /// Of these messages, those without an effect. Each once.
    pub(crate) async fn unprocessed(&self, messages: &[Uuid]) -> Result<Vec<Uuid>> {
        const UNPROCESSED: &str = "\
            -- unprocessed
            SELECT DISTINCT id FROM UNNEST($1::uuid[]) AS waiting (id)
            WHERE NOT EXISTS (SELECT FROM countersign.inbox WHERE message_id = id)";
        Ok(sqlx::query_scalar(UNPROCESSED).bind(messages).fetch_all(&self.logistics).await?)
    }

    /// Of these messages, those whose confirm is not recorded. Each once.
    pub(crate) async fn unrecorded(&self, messages: &[Uuid]) -> Result<Vec<Uuid>> {
        const UNRECORDED: &str = "\
            -- unrecorded
            SELECT DISTINCT id FROM UNNEST($1::uuid[]) AS waiting (id)
            WHERE NOT EXISTS (SELECT FROM confirmation WHERE message_id = id)";
        Ok(sqlx::query_scalar(UNRECORDED).bind(messages).fetch_all(&self.callback).await?)
    }

    /// The databases' rows about every order.
    pub(crate) async fn books(&self) -> Result<Books> {
        Ok(Books::read(&self.orders, &self.logistics, &self.callback).await?)
    }
}

/// Counts come as `bigint`, and are never negative.
fn counted(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

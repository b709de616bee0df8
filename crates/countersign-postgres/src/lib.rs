//! Access to Postgres for every part of Countersign: a pool that waits for its server, migrations
//! that several processes may start at once, a transaction that cannot leak when its future is
//! dropped, the kinds of database trouble, and tables partitioned by message id.

mod url;

mod pool;

mod migrate;

mod lease;

mod database;

mod transaction;

mod executor;

mod trouble;

mod calendar;

mod clocks;

mod partitions;

pub use clocks::{ClocksDisagree, agree, this_machine};
pub use database::Database;
pub use migrate::{migrate, sdk_migrator};
pub use partitions::{Partitions, Places};
pub use pool::{PoolSettings, connect, connect_once};
pub use transaction::{CommitError, Transaction};
pub use trouble::{Trouble, is_duplicate_key, is_without_partition, sqlstate, trouble};
pub use url::{DatabaseUrl, InvalidDatabaseUrl};

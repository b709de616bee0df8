//! The settings of logistics.

use countersign_amqp::Address;
use countersign_postgres::DatabaseUrl;
use countersign_runtime::{AMQP_URL, DATABASE_URL, Setting, Settings, listen};

/// Every setting of logistics.
pub(crate) const SETTINGS: &[Setting] = &[AMQP_URL, DATABASE_URL, listen("127.0.0.1:50053")];

/// The settings of logistics, read.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) broker: Address,
    pub(crate) database: DatabaseUrl,
}

impl Config {
    pub(crate) fn read(settings: &mut Settings) -> Option<Self> {
        let broker = settings.read(AMQP_URL.name);
        let database = settings.read(DATABASE_URL.name);
        Some(Self { broker: broker?, database: database? })
    }
}

//! What orders is told.

use std::time::Duration;

use countersign_amqp::Address;
use countersign_postgres::DatabaseUrl;
use countersign_producer::{Tier, Token};
use countersign_runtime::{AMQP_URL, DATABASE_URL, Setting, Settings, TOKEN, TOKEN_FILE, listen};

const CHECK_DELAY: Setting = Setting {
    name: "COUNTERSIGN_CHECK_DELAY",
    help: "how long consumers have to confirm an order before it is asked for again: one of the callback service's COUNTERSIGN_CHECK_TIERS. Too short: orders are announced twice while the consumer is busy. Too long: a loss is noticed late",
    default: Some("5m"),
    secret: false,
};

const LONGEST_TRANSACTION: Setting = Setting {
    name: "COUNTERSIGN_LONGEST_TRANSACTION",
    help: "how long after it was asked for an order may still commit. Until then a resend of an order that is not there is answered \"in progress\", later \"never committed\"",
    default: Some("60s"),
    secret: false,
};

/// Every setting of orders.
pub const SETTINGS: &[Setting] = &[
    AMQP_URL,
    DATABASE_URL,
    listen("127.0.0.1:50051"),
    CHECK_DELAY,
    LONGEST_TRANSACTION,
    TOKEN,
    TOKEN_FILE,
];

/// What orders is told.
#[derive(Debug)]
pub struct Config {
    pub(crate) broker: Address,
    pub(crate) database: DatabaseUrl,
    pub(crate) check_delay: Tier,
    pub(crate) longest_transaction: Duration,
    /// What whoever asks for a resend has to show.
    pub(crate) token: Option<Token>,
}

impl Config {
    /// Takes the settings apart; `None` when a mistake was recorded.
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let broker = settings.read(AMQP_URL.name);
        let database = settings.read(DATABASE_URL.name);
        let check_delay = settings.read(CHECK_DELAY.name);
        let longest_transaction = settings.duration(LONGEST_TRANSACTION.name);
        let token = settings.secret(TOKEN.name, TOKEN_FILE.name);
        Some(Self {
            broker: broker?,
            database: database?,
            check_delay: check_delay?,
            longest_transaction: longest_transaction?,
            token,
        })
    }
}

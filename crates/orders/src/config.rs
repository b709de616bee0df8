//! What orders is told.

use std::time::Duration;

use countersign_producer::{
    Address, CallbackAddress, DatabaseUrl, MAX_CONSUMERS, Name, SweepSettings, Tier, Token,
};
use countersign_runtime::{AMQP_URL, DATABASE_URL, Setting, Settings, TOKEN, TOKEN_FILE, listen};

const CHECK_DELAY: Setting = Setting {
    name: "COUNTERSIGN_CHECK_DELAY",
    help: "how long consumers have to confirm an order before it is asked for again: one of the callback service's COUNTERSIGN_CHECK_TIERS. Too short: orders are announced twice while the consumer is busy. Too long: a loss is noticed late",
    default: Some("5m"),
    required: false,
    secret: false,
};

const LONGEST_TRANSACTION: Setting = Setting {
    name: "COUNTERSIGN_LONGEST_TRANSACTION",
    help: "how long after it was asked for an order may still commit. Until then a resend of an order that is not there is answered \"in progress\", later \"never committed\" to a caller that names this database",
    default: Some("60s"),
    required: false,
    secret: false,
};

const UPSTREAM_NAME: Setting = Setting {
    name: "COUNTERSIGN_UPSTREAM_NAME",
    help: "the name that the checks of these orders carry: the one that the callback service has in its COUNTERSIGN_UPSTREAMS. Two that share a name have to share their database, and the time of day to within seconds",
    default: Some("orders"),
    required: false,
    secret: false,
};

const CONSUMERS: Setting = Setting {
    name: "COUNTERSIGN_CONSUMERS",
    help: "the consumers that have to confirm an order, comma-separated: 1 to 16 names, such as logistics,billing. An order is done when all of them have confirmed it. With a consumer that does not exist, every order is parked in the end",
    default: Some("logistics"),
    required: false,
    secret: false,
};

const CALLBACK: Setting = Setting {
    name: "COUNTERSIGN_CALLBACK",
    help: "the callback service, such as http://callback:50052: asked by the sweep, which finds orders that the broker lost together with their checks and arms fresh checks for them; they are sent again one check delay later. Empty: no sweep, and a broker that loses its disks loses messages",
    default: Some(""),
    required: false,
    secret: false,
};

const SWEEP_EVERY: Setting = Setting {
    name: "COUNTERSIGN_SWEEP_EVERY",
    help: "the pause between two rounds of the sweep, in which it looks at all orders that are new enough. An order is looked at when it is older than the check delay, the longest transaction and this (at most a minute) together. Too short: orders get a second check whose first has just come due. Too long: the broker's losses are found late",
    default: Some("1m"),
    required: false,
    secret: false,
};

/// Every setting of orders.
pub const SETTINGS: &[Setting] = &[
    AMQP_URL,
    DATABASE_URL,
    listen("127.0.0.1:50051"),
    CHECK_DELAY,
    LONGEST_TRANSACTION,
    UPSTREAM_NAME,
    CONSUMERS,
    CALLBACK,
    SWEEP_EVERY,
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
    /// The name of this upstream, to the callback service.
    pub(crate) upstream: Name,
    pub(crate) consumers: Vec<Name>,
    /// How the sweep is done; `None` if there is none.
    pub(crate) sweep: Option<SweepSettings>,
    /// The token that a request for a resend has to show.
    pub(crate) token: Option<Token>,
}

impl Config {
    /// Takes the settings apart; `None` when a mistake was recorded.
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let broker = settings.read(AMQP_URL.name);
        let database = settings.read(DATABASE_URL.name);
        let check_delay = settings.read(CHECK_DELAY.name);
        let longest_transaction = settings.duration(LONGEST_TRANSACTION.name);
        let upstream = settings.read(UPSTREAM_NAME.name);
        let consumers: Option<Vec<Name>> = settings.list(CONSUMERS.name);
        if consumers.as_ref().is_some_and(|names| !(1..=MAX_CONSUMERS).contains(&names.len())) {
            settings.mistake(CONSUMERS.name, format!("give 1 to {MAX_CONSUMERS} names"));
        }
        let callback: Option<Vec<CallbackAddress>> = settings.list(CALLBACK.name);
        let sweep_every = settings.duration(SWEEP_EVERY.name);
        if callback.as_ref().is_some_and(|addresses| addresses.len() > 1) {
            settings.mistake(CALLBACK.name, "give one address");
        }
        if sweep_every == Some(Duration::ZERO) {
            settings.mistake(SWEEP_EVERY.name, "a pause is needed, such as 1m");
        }
        let token = settings.secret(TOKEN.name, TOKEN_FILE.name);
        if !settings.mistakes().is_empty() {
            return None;
        }
        let sweep = callback?.pop().zip(sweep_every).map(|(callback, every)| {
            let mut sweep = SweepSettings::new(callback);
            sweep.every = every;
            sweep.slack = sweep.slack.min(every);
            sweep
        });
        Some(Self {
            broker: broker?,
            database: database?,
            check_delay: check_delay?,
            longest_transaction: longest_transaction?,
            upstream: upstream?,
            consumers: consumers?,
            sweep,
            token,
        })
    }
}

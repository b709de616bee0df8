//! The service's settings.

use std::time::Duration;

use countersign_amqp::Address;
use countersign_management::ManagementUrl;
use countersign_postgres::DatabaseUrl;
use countersign_protocol::grpc::GetSettingsResponse;
use countersign_protocol::{Tier, Token};
use countersign_runtime::{AMQP_URL, DATABASE_URL, Setting, Settings, TOKEN, TOKEN_FILE, listen};

use crate::heal::address::UpstreamAddress;
use crate::heal::calls::Timing;
use crate::rules::budget::{MISSING_SHARE, Pacing};
use crate::rules::overdue::Policy;

/// Which upstreams can be asked, and where.
pub(crate) const UPSTREAMS: Setting = Setting {
    name: "COUNTERSIGN_UPSTREAMS",
    help: "where upstreams are asked to send again: NAME=http://HOST:PORT (or https), comma-separated, such as orders=http://orders:50051. Overdue messages of an upstream that is not listed wait for its address, and are parked in the end",
    default: Some(""),
    secret: false,
};

/// How many resends a message gets.
pub(crate) const MAX_RESENDS: Setting = Setting {
    name: "COUNTERSIGN_MAX_RESENDS",
    help: "the most resends of one message; unconfirmed after that, it is parked. 0: every overdue message is parked at once. Too high: a message that cannot be processed burdens its consumer for longer before a person sees it",
    default: Some("3"),
    secret: false,
};

/// How long a resend may take to be confirmed.
pub(crate) const RESEND_DELAY: Setting = Setting {
    name: "COUNTERSIGN_RESEND_DELAY",
    help: "how long after a resend its confirm is waited for; doubles with each further one, up to 1h. Too low: a slow consumer gets the same message several times",
    default: Some("30s"),
    secret: false,
};

/// After how long it is given up, whatever happens.
pub(crate) const PARK_AFTER: Setting = Setting {
    name: "COUNTERSIGN_PARK_AFTER",
    help: "a message still unresolved this long after its check came due is parked, whatever is the matter. Longer than an upstream may be down",
    default: Some("24h"),
    secret: false,
};

/// How many resends a second an upstream is asked for.
pub(crate) const RESEND_RATE: Setting = Setting {
    name: "COUNTERSIGN_RESEND_RATE",
    help: "how many resends a second each upstream is asked for at most, by all replicas together, 1 to 100000. Too low: a large loss is healed slowly. Too high: resends crowd out what consumers have to do anyway",
    default: Some("100"),
    secret: false,
};

/// How long a message is left alone when nobody can tell whether it lies before its consumer.
pub(crate) const BACKLOG_PATIENCE: Setting = Setting {
    name: "COUNTERSIGN_BACKLOG_PATIENCE",
    help: "how long a message is left alone when nobody can tell whether it still lies before its consumer: the consumer was never heard of, or its queue has nothing ready and COUNTERSIGN_MANAGEMENT_URL is not set. Too low: a consumer that hangs with messages in hand gets them once more. Too high: what was lost heals that much later",
    default: Some("10s"),
    secret: false,
};

/// Where RabbitMQ says what consumers hold.
pub(crate) const MANAGEMENT_URL: Setting = Setting {
    name: "COUNTERSIGN_MANAGEMENT_URL",
    help: "RabbitMQ's management API, which alone says what consumers hold: http://user:password@host:15672, or https. The user needs the tag monitoring. Without it, see COUNTERSIGN_BACKLOG_PATIENCE",
    default: None,
    secret: true,
};

/// How late the management API is.
pub(crate) const MANAGEMENT_LAG: Setting = Setting {
    name: "COUNTERSIGN_MANAGEMENT_LAG",
    help: "how old the management API's figures may be: twice the broker's collect_statistics_interval (5s unless set) and some more. Too low: a message may be sent again that its consumer has in hand. Too high: what was lost heals that much later",
    default: Some("12s"),
    secret: false,
};

/// Which check delays there are.
pub(crate) const CHECK_TIERS: Setting = Setting {
    name: "COUNTERSIGN_CHECK_TIERS",
    help: "the check delays that upstreams can choose from, comma-separated: a wait queue is kept for each",
    default: Some("5s,30s,5m"),
    secret: false,
};

/// How many queues confirms are spread over.
pub(crate) const CONFIRM_SHARDS: Setting = Setting {
    name: "COUNTERSIGN_CONFIRM_SHARDS",
    help: "how many queues confirms are spread over, 1 to 64. Each is read by one replica at a time: more only help when one replica cannot keep up. Consumers choose theirs by key; any key works",
    default: Some("1"),
    secret: false,
};

/// How long what consumers said is known.
pub(crate) const RETENTION: Setting = Setting {
    name: "COUNTERSIGN_RETENTION",
    help: "how long confirms are known, from 2d. Messages older than this are refused. Longer than PARK_AFTER, and than any message may be under way",
    default: Some("30d"),
    secret: false,
};

/// Every setting of the service.
pub const SETTINGS: &[Setting] = &[
    AMQP_URL,
    DATABASE_URL,
    listen("127.0.0.1:50052"),
    UPSTREAMS,
    MAX_RESENDS,
    RESEND_DELAY,
    RESEND_RATE,
    PARK_AFTER,
    BACKLOG_PATIENCE,
    MANAGEMENT_URL,
    MANAGEMENT_LAG,
    CHECK_TIERS,
    CONFIRM_SHARDS,
    RETENTION,
    TOKEN,
    TOKEN_FILE,
];

/// The settings, read.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where RabbitMQ is.
    pub amqp: Address,
    /// Where the ledger is.
    pub database: DatabaseUrl,
    /// Where the upstreams are.
    pub upstreams: Vec<UpstreamAddress>,
    /// What is done about overdue messages.
    pub policy: Policy,
    /// How fast upstreams are asked.
    pub pacing: Pacing,
    /// How long asking takes at most. Not a setting.
    pub timing: Timing,
    /// Where RabbitMQ says what consumers hold, if it may be asked.
    pub management: Option<ManagementUrl>,
    /// Which check delays there are.
    pub tiers: Vec<Tier>,
    /// How many queues confirms are spread over.
    pub confirm_shards: u16,
    /// How long what consumers said is known.
    pub retention: Duration,
    /// What calls that change something have to show, and what upstreams are shown.
    pub token: Option<Token>,
}

/// Shorter, and today's partition would be the only one.
const SHORTEST_RETENTION: Duration = Duration::from_secs(2 * 24 * 60 * 60);
const MOST_SHARDS: u16 = 64;
/// As fast as a broker takes them.
const HIGHEST_RATE: u32 = 100_000;

impl Config {
    /// Reads the settings; what is wrong with them is recorded there.
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let amqp = settings.read(AMQP_URL.name);
        let database = settings.read(DATABASE_URL.name);
        let upstreams: Option<Vec<UpstreamAddress>> = settings.list(UPSTREAMS.name);
        let max_resends = settings.read(MAX_RESENDS.name);
        let resend_delay = settings.duration(RESEND_DELAY.name);
        let resend_rate = settings.read(RESEND_RATE.name);
        let park_after = settings.duration(PARK_AFTER.name);
        let backlog_patience = settings.duration(BACKLOG_PATIENCE.name);
        let management =
            settings.is_set(MANAGEMENT_URL.name).then(|| settings.read(MANAGEMENT_URL.name));
        let management_lag = settings.duration(MANAGEMENT_LAG.name);
        let tiers: Option<Vec<Tier>> = settings.list(CHECK_TIERS.name);
        let confirm_shards = settings.read(CONFIRM_SHARDS.name);
        let retention = settings.duration(RETENTION.name);
        let token = settings.secret(TOKEN.name, TOKEN_FILE.name);
        if let Some(twice) = upstreams.as_deref().and_then(named_twice) {
            settings.mistake(UPSTREAMS.name, format!("{} is listed twice", twice.name));
        }
        if tiers.as_ref().is_some_and(Vec::is_empty) {
            settings.mistake(CHECK_TIERS.name, "at least one check delay is needed");
        }
        if confirm_shards.is_some_and(|shards| !(1..=MOST_SHARDS).contains(&shards)) {
            settings.mistake(CONFIRM_SHARDS.name, format!("use 1 to {MOST_SHARDS}"));
        }
        if resend_rate.is_some_and(|rate| !(1..=HIGHEST_RATE).contains(&rate)) {
            settings.mistake(RESEND_RATE.name, format!("use 1 to {HIGHEST_RATE}"));
        }
        if resend_delay == Some(Duration::ZERO) {
            settings.mistake(RESEND_DELAY.name, "a resend needs time to be confirmed");
        }
        if retention.is_some_and(|retention| retention < SHORTEST_RETENTION) {
            settings.mistake(RETENTION.name, "use 2d or more");
        }
        if let (Some(retention), Some(park_after)) = (retention, park_after)
            && retention <= park_after
        {
            settings.mistake(
                RETENTION.name,
                format!(
                    "has to be longer than {}: a late confirm must still be known",
                    PARK_AFTER.name
                ),
            );
        }
        if !settings.mistakes().is_empty() {
            return None;
        }
        Some(Self {
            amqp: amqp?,
            database: database?,
            upstreams: upstreams?,
            policy: Policy {
                max_resends: max_resends?,
                resend_delay: resend_delay?,
                park_after: park_after?,
                backlog_patience: backlog_patience?,
                management_lag: management_lag?,
            },
            pacing: Pacing { per_second: resend_rate?, missing_share: MISSING_SHARE },
            timing: Timing::default(),
            management: management.flatten(),
            tiers: tiers?,
            confirm_shards: confirm_shards?,
            retention: retention?,
            token,
        })
    }
}

impl Config {
    /// The settings that upstreams and consumers have to fit, as the API shows them; the API adds its clock.
    pub(crate) fn shown(&self) -> GetSettingsResponse {
        GetSettingsResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            check_tiers_ms: self.tiers.iter().map(|tier| ms(tier.delay())).collect(),
            confirm_shards: self.confirm_shards.into(),
            max_resends: self.policy.max_resends,
            resend_delay_ms: ms(self.policy.resend_delay),
            park_after_ms: ms(self.policy.park_after),
            retention_ms: ms(self.retention),
            upstreams: self.upstreams.iter().map(|upstream| upstream.name.to_string()).collect(),
            now_ms: 0,
        }
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn named_twice(upstreams: &[UpstreamAddress]) -> Option<&UpstreamAddress> {
    upstreams
        .iter()
        .enumerate()
        .find_map(|(i, a)| upstreams[..i].iter().any(|b| a.name == b.name).then_some(a))
}

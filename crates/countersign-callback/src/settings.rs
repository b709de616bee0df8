//! The service's settings: what each means, and how it is read.

use std::ops::RangeInclusive;
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

/// Declares settings, and the list of them that `--help` shows, in one place.
macro_rules! settings {
    ($($constant:ident $(($secret:ident))? = $name:literal, default $default:expr, $help:expr;)*) => {
        $(const $constant: Setting = Setting {
            name: $name,
            help: $help,
            default: $default,
            required: false,
            secret: settings!(@secret $($secret)?),
        };)*

        /// Every setting of the service, in the order of `--help`.
        pub const SETTINGS: &[Setting] = &[
            AMQP_URL,
            DATABASE_URL,
            listen("127.0.0.1:50052"),
            $($constant,)*
            TOKEN,
            TOKEN_FILE,
        ];
    };
    (@secret) => { false };
    (@secret secret) => { true };
}

settings! {
    UPSTREAMS = "COUNTERSIGN_UPSTREAMS", default Some(""),
        "where the service asks each upstream to send again: NAME=http://HOST:PORT (or https), \
         comma-separated, such as orders=http://orders:50051. The overdue messages of an upstream \
         that is not listed wait for its address, and are parked in the end";

    MAX_RESENDS = "COUNTERSIGN_MAX_RESENDS", default Some("3"),
        "the most resends of one message; a message that is unconfirmed after them is parked. \
         0: every overdue message is parked at once. \
         Too high: a message that its consumer cannot process burdens the consumer for longer \
         before an operator sees it";

    RESEND_DELAY = "COUNTERSIGN_RESEND_DELAY", default Some("30s"),
        "how long after a resend the service waits for its confirm; doubles with each further \
         resend, up to 1h. Too low: a slow consumer gets the same message several times";

    RESEND_RATE = "COUNTERSIGN_RESEND_RATE", default Some("100"),
        "how many resends a second all replicas together ask of one upstream at most, 1 to 100000. \
         Too low: a large loss heals slowly. \
         Too high: resends crowd out the messages that consumers have to process anyway";

    PARK_AFTER = "COUNTERSIGN_PARK_AFTER", default Some("24h"),
        "how long after its check came due a message is parked that is still unresolved, whatever \
         the reason. Longer than an upstream may be down";

    BACKLOG_GRACE = "COUNTERSIGN_BACKLOG_GRACE", default Some("10s"),
        "how long the service waits before it sends a message again when it cannot tell whether the \
         message still lies before its consumer: the consumer has never confirmed anything, or its \
         queue has nothing ready and COUNTERSIGN_MANAGEMENT_URL, which would tell what the consumer \
         holds, is not set. \
         Too low: a consumer that hangs with messages in hand gets them once more. \
         Too high: a message that is lost heals that much later";

    MANAGEMENT_URL (secret) = "COUNTERSIGN_MANAGEMENT_URL", default None,
        "RabbitMQ's management API, the only one that tells what consumers hold: \
         http://user:password@host:15672, or https. The user needs the tag monitoring. \
         Without it, see COUNTERSIGN_BACKLOG_GRACE";

    MANAGEMENT_LAG = "COUNTERSIGN_MANAGEMENT_LAG", default Some("12s"),
        "how old the figures of RabbitMQ's management API may be when the service reads them: twice \
         the broker's collect_statistics_interval (5s unless the broker is configured otherwise) and \
         some more. \
         Too low: a message that its consumer has in hand may be sent again. \
         Too high: a message that is lost heals that much later";

    CHECK_TIERS = "COUNTERSIGN_CHECK_TIERS", default Some("5s,30s,5m"),
        "the check delays that an upstream can choose from, comma-separated durations: how long \
         after a message its check comes due. The broker keeps a wait queue for each. \
         Too low: checks come due before their confirms, and each costs a row in the ledger. \
         Too high: a lost message heals that much later";

    CONFIRM_SHARDS = "COUNTERSIGN_CONFIRM_SHARDS", default Some("1"),
        "how many queues confirms are spread over, 1 to 64. One replica at a time reads a queue: \
         more queues only help when one replica cannot keep up. Consumers choose theirs by key; \
         any key works. With a lower number than before, the queues there are stay in use";

    RETENTION = "COUNTERSIGN_RETENTION", default Some("30d"),
        "how long the ledger keeps confirms, from 2d. The service refuses messages that are older. \
         Longer than COUNTERSIGN_PARK_AFTER, and than any message may be under way";

    PARKED_RETENTION = "COUNTERSIGN_PARKED_RETENTION", default None,
        "how long the ledger keeps messages that are parked, and what became of each message of a job, \
         for an operator; a year, or COUNTERSIGN_RETENTION if that is longer, unless it is set. \
         Then it forgets them, with a warning in the log. Not shorter than COUNTERSIGN_RETENTION";
}

/// The settings, read.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where RabbitMQ is.
    pub amqp: Address,
    /// Where the ledger is.
    pub database: DatabaseUrl,
    /// Where each upstream is called.
    pub upstreams: Vec<UpstreamAddress>,
    /// When a message is sent again, deferred and parked.
    pub policy: Policy,
    /// How fast upstreams are asked.
    pub pacing: Pacing,
    /// How long a call and its lease take at most. Not a setting.
    pub timing: Timing,
    /// RabbitMQ's management API, if the service may ask it.
    pub management: Option<ManagementUrl>,
    /// The check delays that upstreams can choose from.
    pub tiers: Vec<Tier>,
    /// How many queues confirms are spread over.
    pub confirm_shards: u16,
    /// How long confirms and reports are kept.
    pub retention: Duration,
    /// How long parked messages and the items of jobs are kept.
    pub parked_retention: Duration,
    /// The token that calls which change something have to show, and that upstreams are shown.
    pub token: Option<Token>,
}

/// With a shorter retention today's partition would be the only one, and yesterday's confirms be gone at
/// midnight.
const SHORTEST_RETENTION: Duration = Duration::from_secs(2 * 24 * 60 * 60);
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Each shard costs a queue, a consumer and a database connection of every replica.
const SHARDS: RangeInclusive<u16> = 1..=64;
/// No broker takes more, and the budget of a quarter of a second fits into the ledger's counts.
const RATES: RangeInclusive<u32> = 1..=100_000;

impl Config {
    /// Reads the settings. `None` if one of them is wrong; every mistake is recorded in `settings`.
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let amqp = settings.read(AMQP_URL.name);
        let database = settings.read(DATABASE_URL.name);
        let upstreams: Option<Vec<UpstreamAddress>> = settings.list(UPSTREAMS.name);
        let max_resends = settings.read(MAX_RESENDS.name);
        let resend_delay = settings.duration(RESEND_DELAY.name);
        let resend_rate = settings.read(RESEND_RATE.name);
        let park_after = settings.duration(PARK_AFTER.name);
        let backlog_grace = settings.duration(BACKLOG_GRACE.name);
        let management =
            settings.is_set(MANAGEMENT_URL.name).then(|| settings.read(MANAGEMENT_URL.name));
        let management_lag = settings.duration(MANAGEMENT_LAG.name);
        let tiers: Option<Vec<Tier>> = settings.list(CHECK_TIERS.name);
        let confirm_shards = settings.read(CONFIRM_SHARDS.name);
        let retention = settings.duration(RETENTION.name);
        let parked_retention = settings
            .is_set(PARKED_RETENTION.name)
            .then(|| settings.duration(PARKED_RETENTION.name));
        let token = settings.secret(TOKEN.name, TOKEN_FILE.name);
        if let Some(twice) = upstreams.as_deref().and_then(named_twice) {
            settings.mistake(UPSTREAMS.name, format!("{} is listed twice", twice.name));
        }
        if tiers.as_ref().is_some_and(Vec::is_empty) {
            settings.mistake(CHECK_TIERS.name, "at least one check delay is needed");
        }
        if confirm_shards.is_some_and(|shards| !SHARDS.contains(&shards)) {
            settings.mistake(CONFIRM_SHARDS.name, format!("use 1 to {}", SHARDS.end()));
        }
        if resend_rate.is_some_and(|rate| !RATES.contains(&rate)) {
            settings.mistake(RESEND_RATE.name, format!("use 1 to {}", RATES.end()));
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
        if let (Some(retention), Some(Some(parked))) = (retention, parked_retention)
            && parked < retention
        {
            let mistake = format!("has to be {} or longer", RETENTION.name);
            settings.mistake(PARKED_RETENTION.name, mistake);
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
                backlog_grace: backlog_grace?,
                management_lag: management_lag?,
            },
            pacing: Pacing { per_second: resend_rate?, missing_share: MISSING_SHARE },
            timing: Timing::default(),
            management: management.flatten(),
            tiers: tiers?,
            confirm_shards: confirm_shards?,
            retention: retention?,
            parked_retention: parked_retention.flatten().unwrap_or(A_YEAR).max(retention?),
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

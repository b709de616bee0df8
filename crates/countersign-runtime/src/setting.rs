//! A setting: its name in the environment, and its meaning for a person.

/// A setting that a program reads, from the environment or from the flag of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The setting's name in the environment. The flag is the same in kebab case, without
    /// `COUNTERSIGN_`.
    pub name: &'static str,
    /// The setting's meaning and unit.
    pub help: &'static str,
    /// The value when none is given, if there is one.
    pub default: Option<&'static str>,
    /// Whether the operator has to give a value.
    pub required: bool,
    /// Whether the value may hold a password: it is never shown.
    pub secret: bool,
}

/// The address of RabbitMQ.
pub const AMQP_URL: Setting = Setting {
    name: "COUNTERSIGN_AMQP_URL",
    help: "RabbitMQ: amqp:// or amqps://user:password@host:port/vhost (the vhost / is written %2f)",
    default: None,
    required: true,
    secret: true,
};

/// The address of this program's own Postgres database.
pub const DATABASE_URL: Setting = Setting {
    name: "COUNTERSIGN_DATABASE_URL",
    help: "this program's Postgres database: postgres://user:password@host:port/database",
    default: None,
    required: true,
    secret: true,
};

/// The filter for log lines.
pub const LOG: Setting = Setting {
    name: "COUNTERSIGN_LOG",
    help: "the filter for log lines: error, warn, info, debug, trace, or filters such as info,countersign_callback=debug",
    default: Some("info"),
    required: false,
    secret: false,
};

/// The format of log lines.
pub const LOG_FORMAT: Setting = Setting {
    name: "COUNTERSIGN_LOG_FORMAT",
    help: "the format of log lines: json or text",
    default: Some("json"),
    required: false,
    secret: false,
};

/// The shared secret of calls that change something.
pub const TOKEN: Setting = Setting {
    name: "COUNTERSIGN_TOKEN",
    help: "the shared secret of calls that change something, which carry it as `authorization: Bearer TOKEN`: visible ASCII without spaces. Without a secret the callback service refuses such calls, and upstreams answer RequestResend to every caller",
    default: None,
    required: false,
    secret: true,
};

/// A file with the shared secret.
pub const TOKEN_FILE: Setting = Setting {
    name: "COUNTERSIGN_TOKEN_FILE",
    help: "a file with the shared secret, instead of COUNTERSIGN_TOKEN; a line end after it does not count. Read once, at the start",
    default: None,
    required: false,
    secret: false,
};

/// How long a process may take to finish the work in hand.
pub const DRAIN: Setting = Setting {
    name: "COUNTERSIGN_DRAIN",
    help: "how long after SIGTERM the process may take to finish the work in hand; the next process does the rest again. Keep it below the supervisor's own limit (10s for docker stop)",
    default: Some("8s"),
    required: false,
    secret: false,
};

/// The address on which a program serves gRPC and its health.
#[must_use]
pub const fn listen(default: &'static str) -> Setting {
    Setting {
        name: "COUNTERSIGN_LISTEN",
        help: "address and port for gRPC, health included",
        default: Some(default),
        required: false,
        secret: false,
    }
}

impl Setting {
    /// The name of the setting's flag: `COUNTERSIGN_AMQP_URL` is `--amqp-url`.
    pub(crate) fn flag(&self) -> String {
        let name = self.name.strip_prefix("COUNTERSIGN_").unwrap_or(self.name);
        name.to_ascii_lowercase().replace('_', "-")
    }
}

//! A setting: its name in the environment, and what a person needs to know about it.

/// A setting that a program reads, from the environment or from the flag of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name in the environment. The flag is the same in kebab case, without `COUNTERSIGN_`.
    pub name: &'static str,
    /// What it means, and its unit.
    pub help: &'static str,
    /// Its value when none is given; `None` if one has to be given.
    pub default: Option<&'static str>,
    /// Whether it may hold a password: its value is never shown.
    pub secret: bool,
}

/// Where RabbitMQ is.
pub const AMQP_URL: Setting = Setting {
    name: "COUNTERSIGN_AMQP_URL",
    help: "RabbitMQ: amqp:// or amqps://user:password@host:port/vhost (the vhost / is written %2f)",
    default: None,
    secret: true,
};

/// Where this program's own Postgres database is.
pub const DATABASE_URL: Setting = Setting {
    name: "COUNTERSIGN_DATABASE_URL",
    help: "this program's Postgres database: postgres://user:password@host:port/database",
    default: None,
    secret: true,
};

/// Which log lines are written.
pub const LOG: Setting = Setting {
    name: "COUNTERSIGN_LOG",
    help: "which log lines: error, warn, info, debug, trace, or filters such as info,countersign_callback=debug",
    default: Some("info"),
    secret: false,
};

/// What log lines look like.
pub const LOG_FORMAT: Setting = Setting {
    name: "COUNTERSIGN_LOG_FORMAT",
    help: "what log lines look like: json or text",
    default: Some("json"),
    secret: false,
};

/// The shared secret of calls that change something.
pub const TOKEN: Setting = Setting {
    name: "COUNTERSIGN_TOKEN",
    help: "the shared secret that calls which change something have to carry, as `authorization: Bearer TOKEN`: visible ASCII without spaces. Without one the callback service refuses such calls, and upstreams answer RequestResend to anybody",
    default: None,
    secret: true,
};

/// A file with the shared secret.
pub const TOKEN_FILE: Setting = Setting {
    name: "COUNTERSIGN_TOKEN_FILE",
    help: "a file with the shared secret, instead of COUNTERSIGN_TOKEN; a line end after it does not count. Read once, at the start",
    default: None,
    secret: false,
};

/// How long a process may take to finish what it has in hand.
pub const DRAIN: Setting = Setting {
    name: "COUNTERSIGN_DRAIN",
    help: "how long after SIGTERM what is in hand may take to finish; what is left then is done again by the next process. Keep it below the supervisor's own limit (10s for docker stop)",
    default: Some("8s"),
    secret: false,
};

/// Where a program serves gRPC and its health.
#[must_use]
pub const fn listen(default: &'static str) -> Setting {
    Setting {
        name: "COUNTERSIGN_LISTEN",
        help: "address and port for gRPC, health included",
        default: Some(default),
        secret: false,
    }
}

impl Setting {
    /// The name of its flag: `COUNTERSIGN_AMQP_URL` is `--amqp-url`.
    pub(crate) fn flag(&self) -> String {
        let name = self.name.strip_prefix("COUNTERSIGN_").unwrap_or(self.name);
        name.to_ascii_lowercase().replace('_', "-")
    }
}

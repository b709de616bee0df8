//! An upstream's choices about its messages.

use std::time::Duration;

use countersign_protocol::check::MAX_CONSUMERS;
use countersign_protocol::topology::ExchangeKind;
use countersign_protocol::{DatabaseId, Name, Tier, Token, Topology};

use crate::record::Owner;

/// Longer than any broker takes that is still there.
const LONGEST_ARM_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Postgres locks each partition once while it makes or looks for them: 6,400 locks fit by default.
const LONGEST_RETENTION: Duration = Duration::from_secs(1_000 * 24 * 60 * 60);

/// The settings of a [`Publisher`](crate::Publisher).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProducerSettings {
    /// The upstream's name. The callback service finds the upstream's address by it, in its
    /// `COUNTERSIGN_UPSTREAMS`.
    pub upstream: Name,
    /// The identity of the database in which the messages' transactions commit: what
    /// [`prepare`](crate::prepare) returned. Checks carry it, and no other database's upstream
    /// answers for them. Transactions need it. `None`, the default: the upstream keeps its data
    /// elsewhere.
    pub database: Option<DatabaseId>,
    /// How long after arming a check comes due. Too short: checks come due before the consumer had
    /// a chance, and messages are sent twice. Too long: a lost message is noticed late. The
    /// callback service has to have the tier in its `COUNTERSIGN_CHECK_TIERS`.
    pub tier: Tier,
    /// The consumers that have to confirm a message that names none itself. 1 to 16.
    pub consumers: Vec<Name>,
    /// The exchanges that messages go to. The publisher declares them at the start of each
    /// connection.
    pub exchanges: Vec<(String, ExchangeKind)>,
    /// How long a commit waits for the broker to hold the check; then it rolls back. Too short: a
    /// broker that elects a leader fails transactions. Too long: transactions hold their locks
    /// meanwhile. Default: 1 s.
    pub arm_timeout: Duration,
    /// How old a message's id may be when its transaction begins. It has to be shorter than
    /// `longest_transaction` (unless that is zero), or a transaction may find its id fenced. Default:
    /// 30 s.
    pub armed_max_age: Duration,
    /// How long after an id was made its transaction may still commit. When the table lacks a
    /// younger id, the upstream answers "in progress"; an older one it fences. Too short: slow
    /// transactions fail. Too long: messages of transactions that were rolled back stay open this
    /// long. An upstream without Postgres has no fence: for it, the time has to be longer than any
    /// transaction *surely* takes. Zero fences at once, which suits tests alone. Default: 60 s.
    pub longest_transaction: Duration,
    /// How long the table keeps enlisted ids. For an older id that is missing, the upstream answers
    /// "unknown". At least the callback service's `COUNTERSIGN_PARK_AFTER`. Default: 30 days.
    pub retention: Duration,
    /// How many messages may be armed or published without the broker having confirmed them;
    /// further ones are refused as "overloaded". Default: 10,000.
    pub max_unconfirmed: usize,
    /// How many bytes the bodies of these messages may have together. Default: 64 MiB.
    pub max_unconfirmed_bytes: usize,
    /// Whether `countersign.enlisted` stores each message, so that
    /// [`StoredMessages`](crate::StoredMessages) can find it. Storing costs a round trip and a
    /// second copy of the data. Default: no.
    pub store_messages: bool,
    /// The token that a caller of `RequestResend` has to show. The callback service needs the same
    /// in its `COUNTERSIGN_TOKEN`. Default: none; every client that can connect may ask.
    pub token: Option<Token>,
}

impl ProducerSettings {
    /// The defaults, for an upstream of this name whose messages these consumers have to confirm
    /// within the tier's delay.
    #[must_use]
    pub fn new(upstream: Name, tier: Tier, consumers: Vec<Name>) -> Self {
        Self {
            upstream,
            database: None,
            tier,
            consumers,
            exchanges: Vec::new(),
            arm_timeout: Duration::from_secs(1),
            armed_max_age: Duration::from_secs(30),
            longest_transaction: Duration::from_secs(60),
            retention: Duration::from_secs(30 * 24 * 60 * 60),
            max_unconfirmed: 10_000,
            max_unconfirmed_bytes: 64 * 1024 * 1024,
            store_messages: false,
            token: None,
        }
    }

    /// Adds an exchange to declare.
    #[must_use]
    pub fn with_exchange(mut self, name: &str, kind: ExchangeKind) -> Self {
        self.exchanges.push((name.to_owned(), kind));
        self
    }

    /// Sets the database in which the messages' transactions commit.
    #[must_use]
    pub fn with_database(mut self, database: DatabaseId) -> Self {
        self.database = Some(database);
        self
    }

    /// Refuses settings that cannot work, all mistakes together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut mistakes = Vec::new();
        let mut demand = |right: bool, mistake: &'static str| {
            if !right {
                mistakes.push(mistake);
            }
        };
        demand(
            (1..=MAX_CONSUMERS).contains(&self.consumers.len()),
            "consumers: 1 to 16 have to confirm a message that names none itself",
        );
        demand(
            (Duration::from_millis(1)..=LONGEST_ARM_TIMEOUT).contains(&self.arm_timeout),
            "arm_timeout: 1 ms to 1 hour; the transaction holds its locks meanwhile",
        );
        demand(
            self.longest_transaction.is_zero() || self.armed_max_age < self.longest_transaction,
            "armed_max_age: it has to be shorter than longest_transaction, or the transaction may find its id fenced",
        );
        demand(
            self.retention <= LONGEST_RETENTION,
            "retention: at most 1,000 days; each day is a partition, and making them locks all",
        );
        demand(
            self.longest_transaction < self.retention,
            "longest_transaction: it has to be shorter than retention",
        );
        demand(self.max_unconfirmed >= 1, "max_unconfirmed: at least one message has to fit");
        demand(
            self.max_unconfirmed_bytes >= 1024,
            "max_unconfirmed_bytes: at least 1 KiB, which the smallest message counts for",
        );
        demand(
            self.exchanges.iter().all(|(name, _)| (1..=255).contains(&name.len())),
            "exchanges: a name of 1 to 255 bytes is needed",
        );
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(format!("settings that cannot work: {}", mistakes.join("; ")))
    }

    /// Whose records the transactions write. `None` without a database.
    pub(crate) fn owner(&self) -> Option<Owner> {
        let database = self.database?;
        Some(Owner { upstream: self.upstream.clone(), database })
    }

    pub(crate) fn topology(&self) -> Topology {
        self.exchanges
            .iter()
            .fold(Topology::arming(), |topology, (name, kind)| topology.with_exchange(name, *kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ProducerSettings {
        let consumers = vec!["logistics".parse().unwrap()];
        ProducerSettings::new("orders".parse().unwrap(), "5m".parse().unwrap(), consumers)
    }

    #[test]
    fn the_defaults_work() {
        settings().check().unwrap();
    }

    #[test]
    fn settings_that_cannot_work_are_refused_all_together() {
        let mut wrong = settings();
        wrong.consumers.clear();
        wrong.arm_timeout = Duration::ZERO;
        wrong.armed_max_age = wrong.longest_transaction;
        wrong.retention = Duration::MAX;
        wrong.max_unconfirmed = 0;
        wrong.max_unconfirmed_bytes = 1_000;
        wrong = wrong.with_exchange("", ExchangeKind::Topic);
        let error = wrong.check().unwrap_err();
        for setting in [
            "consumers",
            "arm_timeout",
            "armed_max_age",
            "retention",
            "max_unconfirmed:",
            "max_unconfirmed_bytes",
            "exchanges",
        ] {
            assert!(error.contains(setting), "{setting} is missing in {error}");
        }
        let mut wrong = settings();
        wrong.longest_transaction = Duration::MAX;
        assert!(wrong.check().unwrap_err().contains("longest_transaction"));
    }
}

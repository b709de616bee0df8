//! `countersign doctor`: what is not as it should be, and what to do about it.
//!
//! What is seen is fetched first (`management`, `sql`, and the callback service over gRPC); what it
//! means is decided without looking at anything else, in a file for each kind of thing.

mod finding;

mod broker;

mod queues;

mod policy;

mod database;

mod horizon;

mod clocks;

mod ledger;

mod management;

mod sql;

use clap::Args;
use console::style;
use countersign_amqp::Address as AmqpAddress;
use countersign_postgres::DatabaseUrl;
use countersign_protocol::grpc::{
    CountOverdueRequest, GetSettingsRequest, GetSettingsResponse, ListConsumersRequest,
    ListUpstreamsRequest,
};
use countersign_protocol::{Tier, Topology, topology};
use serde::Serialize;
use tonic::Code;

use self::clocks::Clock;
use self::database::Database;
use self::finding::{Finding, Severity};
use self::management::{Management, ManagementUrl};
use self::queues::Standing;
use crate::connect::address::refused;
use crate::connect::callback::Callback;
use crate::terminal::clock::ms;
use crate::terminal::outcome::Told;

/// Where to look.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    callback: Callback,
    /// Where RabbitMQ is; its vhost is the one that is looked at
    #[arg(long, env = "COUNTERSIGN_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Option<AmqpAddress>,
    /// Where its management API is: http://USER:PASSWORD@HOST:15672 (or https), of a user with the tag monitoring
    #[arg(long, env = "COUNTERSIGN_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    management_url: Option<ManagementUrl>,
    /// A database of the callback service, an upstream or a consumer: which, is seen by its tables.
    /// Can be given several times
    #[arg(
        long,
        env = "COUNTERSIGN_DATABASE_URL",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "URL"
    )]
    database_url: Vec<DatabaseUrl>,
    /// A consumer's queue, to be looked at with its .dead and .retry queues; can be given several times
    #[arg(long, value_name = "QUEUE")]
    queue: Vec<String>,
}

/// What to type.
pub(crate) const EXAMPLES: &str = "\
What is not given is not looked at, and the answer says so. Exit code 1 if there are errors.

Examples:
  countersign doctor
  countersign doctor --amqp-url amqp://guest:guest@localhost --management-url http://guest:guest@localhost:15672 \\
    --database-url postgres://postgres:postgres@localhost/callback \\
    --database-url postgres://postgres:postgres@localhost/orders \\
    --database-url postgres://postgres:postgres@localhost/logistics --queue logistics.orders
  countersign doctor --json | jq -r '.findings[] | select(.severity == \"error\") | .finding'";

/// The answer.
#[derive(Debug, Default, Serialize)]
struct Report {
    findings: Vec<Finding>,
    looked_at: Vec<String>,
    not_looked_at: Vec<NotLookedAt>,
    #[serde(skip)]
    clocks: Vec<Clock>,
}

#[derive(Debug, Serialize)]
struct NotLookedAt {
    what: String,
    why: String,
}

impl Doctor {
    /// Looks everywhere.
    ///
    /// # Errors
    /// Only when the answer cannot be written: that somebody does not answer is a finding.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Told> {
        let mut report = Report::default();
        let settings = self.ask_callback(&mut report).await;
        self.look_at_broker(settings.as_ref(), &mut report).await;
        let databases = self.look_at_databases(&mut report).await;
        match &settings {
            Some(settings) => report.findings.extend(horizon::check(settings, &databases)),
            None => report.skip(
                "retention",
                "without the callback service's settings: compare by hand that COUNTERSIGN_RETENTION, and the retention of every upstream and consumer, is longer than COUNTERSIGN_PARK_AFTER and the longest of COUNTERSIGN_CHECK_TIERS together",
            ),
        }
        report.findings.extend(clocks::check(&report.clocks));
        report.findings.sort_by_key(|finding| finding.severity);
        let is_good = report.findings.iter().all(|finding| finding.severity != Severity::Error);
        Ok(Told::either(as_json, &report, || report.print())?.but(is_good))
    }

    /// What the callback service tells, and its settings.
    async fn ask_callback(&self, report: &mut Report) -> Option<GetSettingsResponse> {
        let mut client = match self.callback.client().await {
            Ok(client) => client,
            Err(why) => {
                report.findings.push(finding::error(
                    "the callback service",
                    format!("{why:#}"),
                    "is it running, and is --callback right?",
                ));
                return None;
            }
        };
        report.looked_at.push(format!("the callback service at {}", self.callback.address()));
        let by = CountOverdueRequest {
            group_by: vec!["state".to_owned(), "cause".to_owned()],
            ..CountOverdueRequest::default()
        };
        match client.count_overdue(by).await {
            Ok(answer) => report.findings.extend(ledger::overdue(&answer.into_inner().groups)),
            Err(status) => report.refused("overdue messages", &status),
        }
        match client.list_consumers(ListConsumersRequest {}).await {
            Ok(answer) => report.findings.extend(ledger::consumers(&answer.into_inner().consumers)),
            Err(status) => report.refused("consumers", &status),
        }
        match client.list_upstreams(ListUpstreamsRequest {}).await {
            Ok(answer) => report.findings.extend(ledger::upstreams(&answer.into_inner().upstreams)),
            Err(status) => report.refused("upstreams", &status),
        }
        match client.get_settings(GetSettingsRequest {}).await {
            Ok(answer) => Some(answer.into_inner()),
            Err(status) => {
                report.refused("the callback service's settings", &status);
                None
            }
        }
    }

    async fn look_at_broker(&self, settings: Option<&GetSettingsResponse>, report: &mut Report) {
        if let Some(address) = &self.amqp_url {
            match crate::connect::broker::connect(address, "countersign doctor").await {
                Ok(connection) => {
                    report.looked_at.push(format!("the broker at {address}"));
                    connection.close().await;
                }
                Err(why) => report.findings.push(finding::error(
                    "the broker",
                    format!("{why:#}"),
                    "start it, or mend --amqp-url",
                )),
            }
        } else {
            report.skip("the broker", "no --amqp-url (COUNTERSIGN_AMQP_URL)");
        }
        let Some(url) = &self.management_url else {
            report.skip(
                "exchanges, queues, policies and alarms of the broker",
                "no --management-url (COUNTERSIGN_MANAGEMENT_URL)",
            );
            return;
        };
        if let Err(why) = self.look_through_management(url, settings, report).await {
            report.findings.push(finding::error(
                "the management API",
                format!("{why:#}"),
                "mend --management-url: what stands in the broker was not looked at",
            ));
        }
    }

    async fn look_through_management(
        &self,
        url: &ManagementUrl,
        settings: Option<&GetSettingsResponse>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let management = Management::new(url.clone());
        let (broker, clock) = management.broker().await?;
        report.clocks.extend(clock);
        report.findings.extend(broker::check(&broker));
        let vhost = self.amqp_url.as_ref().map_or("/", |address| address.vhost());
        let standing = management.queues(vhost).await?;
        let mut topology = match settings {
            Some(settings) => declared_by(settings),
            None => declared_by_keys(&management, vhost).await?,
        };
        for queue in &self.queue {
            topology = topology.and(Topology::consumed(queue, &retry_delays(queue, &standing)));
        }
        let standing = management.exchanges(vhost, &topology, standing).await?;
        report.looked_at.push(format!(
            "{} exchanges, {} queues and {} bindings of vhost {vhost} through {url}",
            topology.exchanges.len(),
            topology.queues.len(),
            topology.bindings.len()
        ));
        if self.queue.is_empty() {
            report.skip("the consumers' queues", "no --queue");
        }
        report.findings.extend(queues::check(&topology, &self.queue, &standing));
        Ok(())
    }

    async fn look_at_databases(&self, report: &mut Report) -> Vec<Database> {
        let mut databases = Vec::new();
        for url in &self.database_url {
            match sql::read(url).await {
                Ok((database, clock)) => {
                    report.looked_at.push(format!("the database {url}"));
                    report.findings.extend(database::check(&database));
                    report.clocks.push(clock);
                    databases.push(database);
                }
                Err(why) => report.findings.push(finding::error(
                    format!("database {url}"),
                    format!("it cannot be read: {why}"),
                    "is it running, and are address, user and password right?",
                )),
            }
        }
        use database::Owner;
        for (of, what) in [
            (Owner::Callback, "the callback service's database"),
            (Owner::Upstream, "an upstream's database"),
            (Owner::Consumer, "a consumer's database"),
        ] {
            let seen =
                databases.iter().any(|database| database.parts.iter().any(|part| part.of == of));
            if !seen {
                report.skip(what, "no --database-url leads to one");
            }
        }
        databases
    }
}

/// What the callback service declares with these settings.
fn declared_by(settings: &GetSettingsResponse) -> Topology {
    let delays = settings.check_tiers_ms.iter().filter_map(|ms| u64::try_from(*ms).ok());
    let tiers: Vec<Tier> =
        delays.filter_map(|ms| Tier::new(std::time::Duration::from_millis(ms)).ok()).collect();
    Topology::callback(&tiers, u16::try_from(settings.confirm_shards).unwrap_or(1))
}

/// What a callback service has declared, as far as the bindings tell.
async fn declared_by_keys(management: &Management, vhost: &str) -> anyhow::Result<Topology> {
    let tiers = management.keys(vhost, topology::CHECK).await?;
    let tiers: Vec<Tier> = tiers.iter().filter_map(|key| key.parse().ok()).collect();
    let shards = management.keys(vhost, topology::CONFIRM).await?;
    let shards = shards.iter().filter_map(|key| key.parse::<u16>().ok()).max();
    Ok(Topology::callback(&tiers, shards.map_or(1, |last| last.saturating_add(1))))
}

/// The delays of the retry queues that a queue has.
fn retry_delays(queue: &str, standing: &Standing) -> Vec<std::time::Duration> {
    let prefix = format!("{queue}.retry.");
    let delays = standing.queues.keys().filter_map(|name| name.strip_prefix(&prefix));
    delays
        .filter_map(|delay| humantime::parse_duration(delay).ok())
        .filter(|d| ms(*d) > 0)
        .collect()
}

impl Report {
    fn skip(&mut self, what: &str, why: &str) {
        self.not_looked_at.push(NotLookedAt { what: what.to_owned(), why: why.to_owned() });
    }

    fn refused(&mut self, what: &str, status: &tonic::Status) {
        match status.code() {
            Code::Unimplemented => {
                self.skip(what, "the callback service is older than this program");
            }
            _ => self.findings.push(finding::error(
                "the callback service",
                format!("it does not tell about {what}: {}", refused(status)),
                "read its log",
            )),
        }
    }

    fn print(&self) -> String {
        let mut lines = Vec::new();
        for Finding { severity, subject, finding, fix } in &self.findings {
            let word = match severity {
                Severity::Error => style("error  ").red().bold(),
                Severity::Warning => style("warning").yellow().bold(),
                Severity::Note => style("note   ").cyan().bold(),
            };
            lines.push(format!("{word}  {}: {finding}", style(subject).bold()));
            lines.push(format!("         → {fix}"));
        }
        if self.findings.is_empty() {
            lines.push("nothing wrong was found".to_owned());
        }
        lines.push(String::new());
        lines.extend(self.looked_at.iter().map(|what| format!("looked at {what}")));
        lines.extend(
            self.not_looked_at
                .iter()
                .map(|NotLookedAt { what, why }| format!("not looked at: {what} ({why})")),
        );
        let count = |severity| self.findings.iter().filter(|f| f.severity == severity).count();
        lines.push(format!(
            "{} errors, {} warnings, {} notes",
            count(Severity::Error),
            count(Severity::Warning),
            count(Severity::Note)
        ));
        lines.join("\n")
    }
}

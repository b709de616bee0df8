//! `countersign doctor`: faults in broker, databases and callback service, each with its fix.
//!
//! `management`, `sql` and this file fetch; the other files decide from what was fetched alone.

mod broker;
mod clocks;
mod database;
mod finding;
mod horizon;
mod ledger;
mod management;
mod report;
mod sql;
mod topology;

use clap::Args;
use countersign_amqp::Address as AmqpAddress;
use countersign_management::ManagementUrl;
use countersign_postgres::DatabaseUrl;
use countersign_protocol::grpc::{
    CountOverdueRequest, GetSettingsRequest, GetSettingsResponse, ListConsumersRequest,
    ListUpstreamsRequest,
};
use countersign_protocol::topology::{CHECK, CONFIRM};

use self::database::Database;
use self::report::Report;
use self::topology::expected;
use crate::connect::callback::Callback;
use crate::terminal::output::Output;

/// The flags of `countersign doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    callback: Callback,
    /// RabbitMQ's address; the doctor looks at the vhost in it
    #[arg(long, env = "COUNTERSIGN_AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Option<AmqpAddress>,
    /// The address of RabbitMQ's management API: http://USER:PASSWORD@HOST:15672 (or https), of a user
    /// with the tag monitoring
    #[arg(long, env = "COUNTERSIGN_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    management_url: Option<ManagementUrl>,
    /// The address of a database of the callback service, an upstream or a consumer; the doctor sees
    /// by the tables whose it is. Can be given several times
    #[arg(
        long,
        env = "COUNTERSIGN_DATABASE_URL",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "URL"
    )]
    database_url: Vec<DatabaseUrl>,
    /// A consumer's queue; the doctor looks at its .dead and .retry queues too. Can be given several times
    #[arg(long, value_name = "QUEUE")]
    queue: Vec<String>,
}

/// Below the flags in `--help`.
pub(crate) const EXAMPLES: &str = "\
The doctor looks at the services whose addresses it has, and says where it did not look. Exit code 1
if it finds errors.

Examples:
  countersign doctor
  countersign doctor --amqp-url amqp://guest:guest@localhost --management-url http://guest:guest@localhost:15672 \\
    --database-url postgres://postgres:postgres@localhost/callback \\
    --database-url postgres://postgres:postgres@localhost/orders \\
    --database-url postgres://postgres:postgres@localhost/logistics --queue logistics.orders
  countersign doctor --json | jq -r '.findings[] | select(.severity == \"error\") | .finding'";

impl Doctor {
    /// Looks at every service whose address it has.
    ///
    /// # Errors
    /// When the report cannot be written as JSON. A service that does not answer is a finding.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Output> {
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
        Ok(Output::json_or_text(as_json, &report, || report.print())?.good_if(report.is_good()))
    }

    /// Looks at the callback service's own account; its settings.
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
                "mend --management-url: the doctor did not look at exchanges, queues and bindings",
            ));
        }
    }

    async fn look_through_management(
        &self,
        url: &ManagementUrl,
        settings: Option<&GetSettingsResponse>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let client = management::client(url);
        let (broker, clock) = management::broker(&client).await?;
        report.clocks.extend(clock);
        report.findings.extend(broker::check(&broker));
        let vhost = self.amqp_url.as_ref().map_or("/", |address| address.vhost());
        let queues = management::queues(&client, vhost).await?;
        let mut expected = match settings {
            Some(settings) => expected::from_settings(settings),
            None => expected::from_keys(
                &management::keys(&client, vhost, CHECK).await?,
                &management::keys(&client, vhost, CONFIRM).await?,
            ),
        };
        for queue in &self.queue {
            expected = expected.and(expected::of_consumed(queue, &queues));
        }
        let actual = management::exchanges(&client, vhost, &expected, queues).await?;
        report.looked_at.push(format!(
            "{} exchanges, {} queues and {} bindings of vhost {vhost} through {url}",
            expected.exchanges.len(),
            expected.queues.len(),
            expected.bindings.len()
        ));
        if self.queue.is_empty() {
            report.skip("the consumers' queues", "no --queue");
        }
        report.findings.extend(topology::check(&expected, &self.queue, &actual));
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

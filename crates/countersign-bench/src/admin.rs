//! How long people wait for lists, counts and stories while the ledger holds millions of rows.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use countersign_protocol::grpc::callback_client::CallbackClient;
use countersign_protocol::grpc::{
    CountOverdueRequest, CreateJobRequest, GetMessageRequest, JobAction, ListOverdueRequest,
    OverdueFilter,
};
use countersign_testbed::{
    Broker, BrokerSettings, Database, Folder, Postgres, PostgresSettings, Service, Vhost,
};
use serde::Serialize;
use sqlx::PgPool;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::arguments::AdminArguments;
use crate::progress;
use crate::report::print;

/// How long the service may take to start.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Rows made by one statement.
const AT_ONCE: u64 = 250_000;

/// The result: how long each question took.
#[derive(Debug, Serialize)]
struct Outcome {
    confirmations: u64,
    overdue: u64,
    asked: u32,
    questions: Vec<Question>,
}

/// A question, and how long its answers took, in milliseconds.
#[derive(Debug, Serialize)]
struct Question {
    what: String,
    answer: String,
    median_ms: f64,
    worst_ms: f64,
}

pub(crate) async fn measure(arguments: AdminArguments) -> Result<ExitCode> {
    let AdminArguments { confirmations, overdue, asked, json } = arguments;
    let spinner = progress::spinner("starting RabbitMQ, Postgres and the callback service");
    let (broker, postgres) = tokio::try_join!(
        Broker::start(BrokerSettings::default()),
        Postgres::start(PostgresSettings::default())
    )?;
    let vhost = Vhost::create(broker.address()).await?;
    let database = Database::create(postgres.address()).await?;
    let folder = Arc::new(Folder::create("bench-admin")?);
    let mut service = Service::new(&folder, "callback", "countersign-callback")?;
    service
        .set("COUNTERSIGN_AMQP_URL", vhost.url())
        .set("COUNTERSIGN_DATABASE_URL", database.url());
    service.start()?;
    service.ready(READY_WITHIN).await?;
    let pool = database.pool().await?;
    spinner.finish_and_clear();
    fill(&pool, confirmations, overdue).await?;

    let spinner = progress::spinner("asking");
    let channel = Endpoint::from_shared(service.url())?.connect().await;
    let client = CallbackClient::new(channel.context("the service is away")?);
    let questions = ask_everything(&client, &pool, asked).await?;
    spinner.finish_and_clear();
    let outcome = Outcome { confirmations, overdue, asked, questions };
    print(&if json { serde_json::to_string_pretty(&outcome)? } else { outcome.table() })?;
    Ok(ExitCode::SUCCESS)
}

/// Four weeks of messages: most confirmed in time; of the overdue ones 40 % are parked, 20 % wait,
/// the others are closed.
async fn fill(pool: &PgPool, confirmations: u64, overdue: u64) -> Result<()> {
    let bar = progress::bar("confirmations", confirmations);
    for first in (0..confirmations).step_by(usize::try_from(AT_ONCE)?) {
        let many = AT_ONCE.min(confirmations - first);
        sqlx::query(
            "INSERT INTO confirmation (message_id, consumer)
             SELECT (lpad(to_hex(made_ms), 12, '0') || '7' || substr(hash, 1, 3) || '8'
                     || substr(hash, 4, 15))::uuid, 'logistics'
             FROM generate_series($1::bigint, $1 + $2 - 1) AS n
             CROSS JOIN LATERAL (
                 SELECT md5('confirmed' || n) AS hash,
                        (extract(epoch FROM now()) * 1000)::bigint
                            - (28 * 86400000::numeric * n / $3)::bigint AS made_ms
             ) AS made
             ORDER BY 1",
        )
        .bind(i64::try_from(first)?)
        .bind(i64::try_from(many)?)
        .bind(i64::try_from(confirmations)?)
        .execute(pool)
        .await?;
        bar.inc(many);
    }
    bar.finish_and_clear();
    let bar = progress::bar("overdue", overdue);
    for first in (0..overdue).step_by(usize::try_from(AT_ONCE)?) {
        let many = AT_ONCE.min(overdue - first);
        sqlx::query(
            "WITH row AS (
                 INSERT INTO overdue (message_id, upstream, state, cause, consumers, reason, since,
                                      due_at, closed_at, resends)
                 SELECT (lpad(to_hex(made_ms), 12, '0') || '7' || substr(hash, 1, 3) || '8'
                         || substr(hash, 4, 15))::uuid,
                        (ARRAY['orders', 'orders', 'orders', 'billing', 'returns'])[1 + n % 5], state,
                        CASE state
                            WHEN 'parked' THEN (ARRAY['rejected', 'resends_used_up',
                                                      'open_too_long', 'unknown_to_upstream'])[1 + n / 7 % 4]
                            WHEN 'waiting' THEN (ARRAY['republished', 'not_confirmed',
                                                       'consumer_retrying', 'upstream_away'])[1 + n / 7 % 4]
                            ELSE state
                        END,
                        CASE n / 3 % 5 WHEN 0 THEN ARRAY['logistics', 'audit']
                                       ELSE ARRAY['logistics'] END,
                        'not confirmed by logistics after 3 of 3 resends; last: sent again by orders as attempt 4',
                        to_timestamp(made_ms / 1000.0) + interval '5 min',
                        CASE WHEN state = 'waiting' THEN now() + interval '1 day' END,
                        CASE WHEN state IN ('never_committed', 'confirmed') THEN now() END, 1
                 FROM generate_series($1::bigint, $1 + $2 - 1) AS n
                 CROSS JOIN LATERAL (
                     SELECT md5('overdue' || n) AS hash,
                            (extract(epoch FROM now()) * 1000)::bigint - 600000
                                - (27 * 86400000::numeric * n / $3)::bigint AS made_ms,
                            CASE WHEN n / 11 % 100 < 40 THEN 'parked'
                                 WHEN n / 11 % 100 < 60 THEN 'waiting'
                                 WHEN n / 11 % 100 < 85 THEN 'never_committed'
                                 ELSE 'confirmed' END AS state
                 ) AS made
                 RETURNING message_id, upstream, state, cause, reason, since
             )
             INSERT INTO overdue_event
                 (message_id, upstream, from_state, to_state, cause, reason, resends, at)
             SELECT message_id, upstream, NULL, 'waiting', 'not_confirmed', reason, 0, since FROM row",
        )
        .bind(i64::try_from(first)?)
        .bind(i64::try_from(many)?)
        .bind(i64::try_from(overdue)?)
        .execute(pool)
        .await?;
        bar.inc(many);
    }
    bar.finish_and_clear();
    // Autovacuum does the same by and by.
    let spinner = progress::spinner("vacuuming");
    sqlx::query("VACUUM (ANALYZE)").execute(pool).await?;
    spinner.finish_and_clear();
    Ok(())
}

type Client = CallbackClient<Channel>;

async fn ask_everything(client: &Client, pool: &PgPool, asked: u32) -> Result<Vec<Question>> {
    let some = OverdueFilter::default;
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let parked = || OverdueFilter { states: words(&["parked"]), ..some() };
    let mut questions = Vec::new();
    for (what, sql) in [
        (
            "story of a confirmed message",
            "SELECT message_id FROM confirmation TABLESAMPLE SYSTEM (1) LIMIT 200",
        ),
        (
            "story of an overdue message",
            "SELECT message_id FROM overdue TABLESAMPLE SYSTEM (1) LIMIT 200",
        ),
    ] {
        let ids: Vec<Uuid> = sqlx::query_scalar(sql).fetch_all(pool).await?;
        ensure!(!ids.is_empty(), "there are too few rows to choose from: make more");
        let mut ids = ids.into_iter().cycle();
        let mut ask = async || {
            let message_id = ids.next().map(|id| id.to_string()).unwrap_or_default();
            let told = client.clone().get_message(GetMessageRequest { message_id }).await?;
            Ok(told.into_inner().state)
        };
        questions.push(time(what, asked, &mut ask).await?);
    }
    let narrow = || OverdueFilter {
        upstream: "orders".to_owned(),
        consumer: "audit".to_owned(),
        causes: words(&["rejected"]),
        ..parked()
    };
    let week = 7 * 24 * 60 * 60 * 1_000;
    for (what, filter, pages) in [
        ("page of messages for an operator", some(), 1),
        ("page of it, the 50th", some(), 50),
        ("page of the parked", parked(), 1),
        ("page of one upstream", OverdueFilter { upstream: "returns".into(), ..some() }, 1),
        ("page of one consumer", OverdueFilter { consumer: "audit".into(), ..some() }, 1),
        ("page of one cause", OverdueFilter { causes: words(&["rejected"]), ..some() }, 1),
        ("page by all of these", narrow(), 1),
        ("page of the last week", OverdueFilter { younger_than_ms: week, ..parked() }, 1),
    ] {
        // The pages before the last are not timed.
        let mut page_token = String::new();
        for _ in 1..pages {
            let request =
                ListOverdueRequest { filter: Some(filter.clone()), page_size: 0, page_token };
            page_token = client.clone().list_overdue(request).await?.into_inner().next_page_token;
        }
        let mut ask = async || {
            let request = ListOverdueRequest {
                filter: Some(filter.clone()),
                page_size: 0,
                page_token: page_token.clone(),
            };
            let page = client.clone().list_overdue(request).await?.into_inner();
            Ok(format!("{} rows", page.messages.len()))
        };
        questions.push(time(what, asked, &mut ask).await?);
    }
    for (what, filter, by) in [
        ("count of messages for an operator", some(), &[][..]),
        ("count by state, upstream, cause", some(), &["state", "upstream", "cause"][..]),
        ("count by consumer", some(), &["consumer"][..]),
        ("count by all of the filters", narrow(), &["state"][..]),
        ("count of the last week", OverdueFilter { younger_than_ms: week, ..some() }, &["state"]),
        (
            "count of the closed",
            OverdueFilter { states: words(&["confirmed", "never_committed"]), ..some() },
            &["state"],
        ),
    ] {
        let mut ask = async || {
            let request = CountOverdueRequest { filter: Some(filter.clone()), group_by: words(by) };
            let counted = client.clone().count_overdue(request).await?.into_inner();
            Ok(format!("{} in {} groups", counted.total, counted.groups.len()))
        };
        questions.push(time(what, asked, &mut ask).await?);
    }
    let mut ask = async || {
        let request = CreateJobRequest {
            action: JobAction::Resend.into(),
            filter: Some(parked()),
            dry_run: true,
            ..CreateJobRequest::default()
        };
        let would = client.clone().create_job(request).await?.into_inner();
        Ok(format!("{} messages", would.job.unwrap_or_default().items))
    };
    questions.push(time("dry run: resend all parked", asked, &mut ask).await?);
    Ok(questions)
}

/// Asks this many times, and once before, untimed.
async fn time(
    what: &str,
    times: u32,
    ask: &mut impl AsyncFnMut() -> Result<String>,
) -> Result<Question> {
    let mut answer = ask().await?;
    let mut took = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        answer = ask().await?;
        took.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    took.sort_by(f64::total_cmp);
    let at = |place: usize| took.get(place).copied().unwrap_or(f64::NAN);
    let (median_ms, worst_ms) = (at(took.len() / 2), at(took.len().saturating_sub(1)));
    Ok(Question { what: what.to_owned(), answer, median_ms, worst_ms })
}

impl Outcome {
    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners()).set_header([
            "question",
            "answer",
            "median ms",
            "worst ms",
        ]);
        table.add_rows(self.questions.iter().map(|question| {
            [
                question.what.clone(),
                question.answer.clone(),
                format!("{:.1}", question.median_ms),
                format!("{:.1}", question.worst_ms),
            ]
        }));
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!(
            "{table}\nOver gRPC, {} times each, one after the other, with {} confirmations and {} overdue rows.",
            self.asked, self.confirmations, self.overdue
        )
    }
}

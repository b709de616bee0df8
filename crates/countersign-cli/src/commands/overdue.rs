//! `countersign overdue`: messages that were not confirmed in time, listed or counted.

use clap::Args;
use countersign_protocol::grpc::count_overdue_response::Group;
use countersign_protocol::grpc::{
    CountOverdueRequest, CountOverdueResponse, ListOverdueRequest, ListOverdueResponse,
    OverdueFilter,
};

use crate::commands::filter::Filter;
use crate::commands::states;
use crate::connect::address::refused;
use crate::connect::callback::{Callback, Client};
use crate::terminal::clock::{age, now_ms};
use crate::terminal::output::Output;
use crate::terminal::page::{Fetched, Page};
use crate::terminal::table::{Column, Rows, count, first_of, quantity};

/// The flags of `countersign overdue`.
#[derive(Debug, Args)]
pub(crate) struct Overdue {
    #[command(flatten)]
    callback: Callback,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    page: Page,
    /// Counts the messages instead
    #[arg(long)]
    count: bool,
    /// With --count: counts them in groups by these fields
    #[arg(
        long,
        requires = "count",
        value_delimiter = ',',
        value_name = "FIELD",
        value_parser = ["state", "upstream", "consumer", "cause"]
    )]
    by: Vec<String>,
}

const EXAMPLES: &str = "\
Without --state: messages in the states waiting, asking, parked and conflict.
Exit code 0 whether there are any or not.

Examples:
  countersign overdue
  countersign overdue --count --by state,cause
  countersign overdue --state parked --consumer logistics --older-than 10m
  countersign overdue --cause rejected --all --json | jq -r '.messages[].message_id'";

/// Below the flags in `--help`.
pub(crate) fn help() -> String {
    format!("{}\n\n{EXAMPLES}", states::of_records())
}

impl Overdue {
    /// Asks the callback service.
    ///
    /// # Errors
    /// When the callback service does not answer.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Output> {
        let mut client = self.callback.client().await?;
        let filter = self.filter.wire();
        if self.count {
            let counted = counted(&mut client, filter, self.by.clone()).await?;
            return Output::json_or_text(as_json, &counted, || count_table(&counted, &self.by));
        }
        let listed = self.list(&mut client, &filter).await?;
        if as_json {
            return Output::json_or_text(true, &listed, String::new);
        }
        if listed.messages.is_empty() {
            return Ok(Output::good("no overdue message matches"));
        }
        let mut text = table(&listed);
        if !listed.next_page_token.is_empty() {
            let all = counted(&mut client, filter, Vec::new()).await?.total;
            text = format!("{text}\n{}", first_of(listed.messages.len(), Some(all)));
        }
        Ok(Output::good(text))
    }

    async fn list(
        &self,
        client: &mut Client,
        filter: &OverdueFilter,
    ) -> anyhow::Result<ListOverdueResponse> {
        let fetched = self.page.fetch(async |page_size, page_token| {
            let request =
                ListOverdueRequest { filter: Some(filter.clone()), page_size, page_token };
            let page = client.list_overdue(request).await.map_err(|e| refused(&e))?.into_inner();
            Ok((page.messages, page.next_page_token))
        });
        let Fetched { items: messages, next_page_token } = fetched.await?;
        Ok(ListOverdueResponse { messages, next_page_token })
    }
}

async fn counted(
    client: &mut Client,
    filter: OverdueFilter,
    group_by: Vec<String>,
) -> anyhow::Result<CountOverdueResponse> {
    let request = CountOverdueRequest { filter: Some(filter), group_by };
    Ok(client.count_overdue(request).await.map_err(|e| refused(&e))?.into_inner())
}

fn table(listed: &ListOverdueResponse) -> String {
    use Column::{Number, Text};
    let now = now_ms();
    let mut rows = Rows::new(&[
        Text("message_id"),
        Text("state"),
        Text("cause"),
        Number("overdue for"),
        Number("resends"),
        Text("upstream"),
        Text("consumers"),
        Text("reason"),
    ]);
    for message in &listed.messages {
        rows.add([
            message.message_id.clone(),
            message.state.clone(),
            message.cause.clone(),
            age(now, message.since_ms),
            message.resends.to_string(),
            message.upstream.clone(),
            message.consumers.join(", "),
            message.reason.clone(),
        ]);
    }
    rows.print()
}

fn count_table(counted: &CountOverdueResponse, by: &[String]) -> String {
    let total = quantity(counted.total, "message");
    if by.is_empty() || counted.groups.is_empty() {
        return total;
    }
    let fields: Vec<&str> = by.iter().map(String::as_str).collect();
    let mut text = format!("{}\n{total}", groups(&counted.groups, &fields));
    if fields.contains(&"consumer") {
        text.push_str(" (a message that several consumers have to confirm is in several groups)");
    }
    text
}

/// A row for each group of overdue messages, with these fields.
pub(crate) fn groups(groups: &[Group], by: &[&str]) -> String {
    let shown = ["state", "upstream", "consumer", "cause"].into_iter().filter(|f| by.contains(f));
    let columns: Vec<Column> = shown
        .clone()
        .map(Column::Text)
        .chain([Column::Number("messages"), Column::Number("longest overdue for")])
        .collect();
    let now = now_ms();
    let mut rows = Rows::new(&columns);
    for group in groups {
        let field = |field| match field {
            "state" => &group.state,
            "upstream" => &group.upstream,
            "consumer" => &group.consumer,
            _ => &group.cause,
        };
        let cells = shown.clone().map(|name| field(name).clone());
        rows.add(cells.chain([count(group.messages), age(now, group.oldest_since_ms)]));
    }
    rows.print()
}

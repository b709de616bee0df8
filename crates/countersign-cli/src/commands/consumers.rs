//! `countersign consumers`: the progress of each consumer.

use clap::Args;
use countersign_protocol::grpc::{ListConsumersRequest, ListConsumersResponse};

use crate::connect::address::refused;
use crate::connect::callback::Callback;
use crate::terminal::clock::{age, now_ms};
use crate::terminal::output::Output;
use crate::terminal::table::{Column, Rows, count};

/// The flags of `countersign consumers`.
#[derive(Debug, Args)]
pub(crate) struct Consumers {
    #[command(flatten)]
    callback: Callback,
}

/// Below the flags in `--help`.
pub(crate) const HELP: &str = "\
States:
  never_seen   the consumer has to confirm messages of this upstream, and has never confirmed one
  idle         no message waits for the consumer
  progressing  messages wait, and the consumer confirms some
  no_progress  messages wait, and the consumer has confirmed none lately: the callback service asks
               for no resend meanwhile

Exit code 1 if a consumer is in state no_progress.

Examples:
  countersign consumers
  countersign consumers --json | jq '.consumers[] | select(.state == \"no_progress\")'";

/// The depth of a queue that the callback service cannot see.
const UNKNOWN_DEPTH: i64 = -1;

impl Consumers {
    /// Asks the callback service.
    ///
    /// # Errors
    /// When the callback service does not answer.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Output> {
        let mut client = self.callback.client().await?;
        let answer = client.list_consumers(ListConsumersRequest {}).await;
        let listed = answer.map_err(|e| refused(&e))?.into_inner();
        let is_stuck = listed.consumers.iter().any(|consumer| consumer.state == "no_progress");
        Ok(Output::json_or_text(as_json, &listed, || table(&listed))?.good_if(!is_stuck))
    }
}

fn table(listed: &ListConsumersResponse) -> String {
    use Column::{Number, Text};
    if listed.consumers.is_empty() {
        return "no consumer is known: none has confirmed a message or has to".to_owned();
    }
    let mut rows = Rows::new(&[
        Text("consumer"),
        Text("queue"),
        Text("upstream"),
        Text("state"),
        Number("confirmed up to"),
        Number("last progress"),
        Number("depth"),
        Number("deferred"),
        Text("summary"),
    ]);
    let now = now_ms();
    for consumer in &listed.consumers {
        let ago = |at_ms| match age(now, at_ms) {
            none if none == "-" => none,
            age => format!("{age} ago"),
        };
        rows.add([
            consumer.consumer.clone(),
            consumer.queue.clone(),
            consumer.upstream.clone(),
            consumer.state.clone(),
            ago(consumer.confirmed_up_to_ms),
            ago(consumer.progressed_at_ms),
            if consumer.depth == UNKNOWN_DEPTH { "?".to_owned() } else { count(consumer.depth) },
            count(consumer.deferred),
            consumer.summary.clone(),
        ]);
    }
    rows.print()
}

//! `countersign consumers` and `countersign upstreams`: how far they are.

use countersign_protocol::grpc::{ListConsumersRequest, ListUpstreamsRequest};

use crate::connect::address::refused;
use crate::connect::callback::Callback;
use crate::terminal::clock::{age, now_ms};
use crate::terminal::output::Output;
use crate::terminal::table::{Column, Rows, count};

/// What to type.
pub(crate) const CONSUMERS: &str = "\
States:
  never_seen   it has to confirm messages of this upstream, and has never confirmed one
  idle         nothing waits for it
  progressing  messages wait, and it confirms some
  no_progress  messages wait, and it has confirmed nothing lately: nothing is sent again meanwhile

Exit code 1 if one makes no progress.

Examples:
  countersign consumers
  countersign consumers --json | jq '.consumers[] | select(.state == \"no_progress\")'";

/// What to type.
pub(crate) const UPSTREAMS: &str = "\
Breaker:
  closed     it is asked
  open       it did not answer, and is left alone for a while
  half_open  one call tries whether it answers again

Each replica of the callback service finds that out for itself; this is the one that answers.
Exit code 1 if one is left alone.

Examples:
  countersign upstreams
  countersign upstreams --json | jq '.upstreams[] | {upstream, breaker, due}'";

/// Nobody knows its depth.
const UNKNOWN: i64 = -1;

/// How far each consumer is.
///
/// # Errors
/// When the callback service does not answer.
pub(crate) async fn consumers(callback: &Callback, as_json: bool) -> anyhow::Result<Output> {
    let mut client = callback.client().await?;
    let answer = client.list_consumers(ListConsumersRequest {}).await;
    let answer = answer.map_err(|e| refused(&e))?.into_inner();
    let now = now_ms();
    let is_good = answer.consumers.iter().all(|consumer| consumer.state != "no_progress");
    let output = Output::json_or_text(as_json, &answer, || {
        use Column::{Number, Text};
        if answer.consumers.is_empty() {
            return "no consumer is known: nobody has confirmed a message or has to".to_owned();
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
        for consumer in &answer.consumers {
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
                if consumer.depth == UNKNOWN { "?".to_owned() } else { count(consumer.depth) },
                count(consumer.deferred),
                consumer.summary.clone(),
            ]);
        }
        rows.print()
    })?;
    Ok(output.good_if(is_good))
}

/// How each upstream is doing.
///
/// # Errors
/// When the callback service does not answer.
pub(crate) async fn upstreams(callback: &Callback, as_json: bool) -> anyhow::Result<Output> {
    let mut client = callback.client().await?;
    let answer = client.list_upstreams(ListUpstreamsRequest {}).await;
    let answer = answer.map_err(|e| refused(&e))?.into_inner();
    let is_good = answer.upstreams.iter().all(|upstream| upstream.breaker != "open");
    let output = Output::json_or_text(as_json, &answer, || {
        use Column::{Number, Text};
        if answer.upstreams.is_empty() {
            return "no upstream is known: name them in COUNTERSIGN_UPSTREAMS of the callback service"
                .to_owned();
        }
        let mut rows = Rows::new(&[
            Text("upstream"),
            Text("address"),
            Text("breaker"),
            Number("resends/s"),
            Text("canaries"),
            Number("due"),
            Text("summary"),
        ]);
        for upstream in &answer.upstreams {
            rows.add([
                upstream.upstream.clone(),
                if upstream.address.is_empty() {
                    "none".to_owned()
                } else {
                    upstream.address.clone()
                },
                upstream.breaker.clone(),
                format!("{:.1}", upstream.budget_per_second),
                if upstream.canaries_only {
                    format!("only {}", count(upstream.canaries))
                } else {
                    "-".to_owned()
                },
                count(upstream.due),
                upstream.summary.clone(),
            ]);
        }
        rows.print()
    })?;
    Ok(output.good_if(is_good))
}

//! `countersign upstreams`: the state of each upstream.

use clap::Args;
use countersign_protocol::grpc::{ListUpstreamsRequest, ListUpstreamsResponse};

use crate::connect::address::refused;
use crate::connect::callback::Callback;
use crate::terminal::output::Output;
use crate::terminal::table::{Column, Rows, count};

/// The flags of `countersign upstreams`.
#[derive(Debug, Args)]
pub(crate) struct Upstreams {
    #[command(flatten)]
    callback: Callback,
}

/// Below the flags in `--help`.
pub(crate) const HELP: &str = "\
Breaker:
  closed     the callback service asks the upstream
  open       circuit open: the upstream did not answer and is paused; no attempt is used meanwhile
  half_open  one call tries whether the upstream answers again

Each replica of the callback service has a circuit breaker of its own for each upstream: the answer
shows those of the replica that gives it. Exit code 1 if the circuit of an upstream is open.

Examples:
  countersign upstreams
  countersign upstreams --json | jq '.upstreams[] | {upstream, breaker, due}'";

impl Upstreams {
    /// Asks the callback service.
    ///
    /// # Errors
    /// When the callback service does not answer.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Output> {
        let mut client = self.callback.client().await?;
        let answer = client.list_upstreams(ListUpstreamsRequest {}).await;
        let listed = answer.map_err(|e| refused(&e))?.into_inner();
        let is_open = listed.upstreams.iter().any(|upstream| upstream.breaker == "open");
        Ok(Output::json_or_text(as_json, &listed, || table(&listed))?.good_if(!is_open))
    }
}

fn table(listed: &ListUpstreamsResponse) -> String {
    use Column::{Number, Text};
    if listed.upstreams.is_empty() {
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
    for upstream in &listed.upstreams {
        let address = if upstream.address.is_empty() { "none" } else { &upstream.address };
        let canaries = match upstream.canaries_only {
            true => format!("only {}", count(upstream.canaries)),
            false => "-".to_owned(),
        };
        rows.add([
            upstream.upstream.clone(),
            address.to_owned(),
            upstream.breaker.clone(),
            format!("{:.1}", upstream.budget_per_second),
            canaries,
            count(upstream.due),
            upstream.summary.clone(),
        ]);
    }
    rows.print()
}

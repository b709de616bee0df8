//! `ListUpstreams`: how each upstream is doing.

use std::collections::BTreeMap;

use countersign_protocol::Name;
use countersign_protocol::grpc::ListUpstreamsResponse;
use countersign_protocol::grpc::list_upstreams_response::Upstream;

use crate::heal::upstreams::{Reachability, Upstreams};
use crate::ledger::UpstreamLoad;
use crate::rules::budget::{Pacing, Storm};

/// What a person is told: of those that have an address, and of those that something is known of.
#[must_use]
pub(crate) fn answer(
    upstreams: &Upstreams,
    mut known: BTreeMap<Name, UpstreamLoad>,
    pacing: &Pacing,
) -> ListUpstreamsResponse {
    for name in upstreams.names() {
        known.entry(name.clone()).or_default();
    }
    let upstream = |(name, known): (Name, UpstreamLoad)| {
        let told = upstreams.reachability(&name);
        let canaries_only = matches!(known.storm, Storm::CanariesOnly { .. });
        Upstream {
            summary: summary(&name, told.as_ref(), &known),
            upstream: name.to_string(),
            budget_per_second: f64::from(pacing.per_second),
            canaries_only,
            canaries: known.storm.canaries().filter(|_| canaries_only).unwrap_or(0),
            due: known.due,
            breaker: told.as_ref().map_or_else(String::new, |told| told.breaker.clone()),
            address: told.map_or_else(String::new, |told| told.address),
        }
    };
    ListUpstreamsResponse { upstreams: known.into_iter().map(upstream).collect() }
}

fn summary(name: &Name, told: Option<&Reachability>, known: &UpstreamLoad) -> String {
    let mut parts = Vec::new();
    match told {
        None => parts.push(format!("no address for {name}: add it to COUNTERSIGN_UPSTREAMS")),
        Some(Reachability { misdirected: Some(why), .. }) => parts.push(format!(
            "its address leads elsewhere: {why}. Set it right in COUNTERSIGN_UPSTREAMS; no attempt is used meanwhile"
        )),
        Some(told) => match told.tried_in {
            Some(wait) => parts.push(format!(
                "does not answer: tried again in {} s, no attempt is used meanwhile",
                wait.as_secs() + 1
            )),
            None if told.breaker == "half_open" => {
                parts.push("does not answer: being tried with one call".to_owned());
            }
            None => {}
        },
    }
    if let Storm::CanariesOnly { canaries } = known.storm {
        parts.push(format!(
            "much is missing: {canaries} resends may be unconfirmed at once, more when they are confirmed"
        ));
    }
    parts.join("; ")
}

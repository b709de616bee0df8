//! `ListUpstreams`: how each upstream is doing.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_protocol::Name;
use countersign_protocol::grpc::ListUpstreamsResponse;
use countersign_protocol::grpc::list_upstreams_response::{Sweep, Upstream};

use crate::heal::upstreams::{Reachability, Upstreams};
use crate::ledger::{ToldSweep, UpstreamLoad};
use crate::rules::budget::{Pacing, Storm};

/// What a person is told: of those that have an address, and of those that something is known of.
#[must_use]
pub(crate) fn answer(
    upstreams: &Upstreams,
    mut known: BTreeMap<Name, UpstreamLoad>,
    mut sweeps: BTreeMap<Name, Vec<ToldSweep>>,
    pacing: &Pacing,
) -> ListUpstreamsResponse {
    for name in upstreams.names().chain(sweeps.keys()) {
        known.entry(name.clone()).or_default();
    }
    let upstream = |(name, known): (Name, UpstreamLoad)| {
        let swept = sweeps.remove(&name).unwrap_or_default();
        let told = upstreams.reachability(&name);
        let canaries_only = matches!(known.storm, Storm::CanariesOnly { .. });
        Upstream {
            summary: summary(&name, told.as_ref(), &known, &swept),
            upstream: name.to_string(),
            budget_per_second: f64::from(pacing.per_second),
            canaries_only,
            canaries: known.storm.canaries().filter(|_| canaries_only).unwrap_or(0),
            due: known.due,
            sweeps: swept.iter().map(sweep).collect(),
            breaker: told.as_ref().map_or_else(String::new, |told| told.breaker.clone()),
            address: told.map_or_else(String::new, |told| told.address),
        }
    };
    ListUpstreamsResponse { upstreams: known.into_iter().map(upstream).collect() }
}

fn sweep(sweep: &ToldSweep) -> Sweep {
    // A CHECK keeps each of them from being negative.
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    Sweep {
        database: if sweep.database.is_nil() { String::new() } else { sweep.database.to_string() },
        check_delay_ms: number(sweep.check_delay_ms),
        behind_ms: number(sweep.behind_ms),
        walk_at_ms: sweep.walk_at_ms,
        walk_began_at_ms: sweep.walk_began_at_ms,
        told_ms_ago: number(sweep.told_ms_ago),
    }
}

/// A sweep that is so far behind, or has said nothing for so long, is told: it says something every
/// minute by default, and is behind while it catches up after an outage.
const BEHIND_MS: i64 = 10 * 60 * 1_000;
const SILENT_MS: i64 = 15 * 60 * 1_000;

fn summary(
    name: &Name,
    told: Option<&Reachability>,
    known: &UpstreamLoad,
    sweeps: &[ToldSweep],
) -> String {
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
    let worst = |number: fn(&ToldSweep) -> i64, at_least| {
        let ms = sweeps.iter().map(number).max().filter(|ms| *ms >= at_least)?;
        let minutes = u64::try_from(ms / 60_000).unwrap_or(0);
        Some(humantime::format_duration(Duration::from_secs(60 * minutes)))
    };
    if let Some(silent) = worst(|sweep| sweep.told_ms_ago, SILENT_MS) {
        parts.push(format!("its sweep has said nothing for {silent}: does it run?"));
    } else if let Some(behind) = worst(|sweep| sweep.behind_ms, BEHIND_MS) {
        parts.push(format!(
            "its sweep is {behind} behind: what the broker loses is found that much later"
        ));
    }
    parts.join("; ")
}

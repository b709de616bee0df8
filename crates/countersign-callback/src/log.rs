//! One log line for each change of a row, of an upstream's circuit or of a storm that an operator may
//! have to know of.

use countersign_protocol::Name;
use tracing::{debug, error, info, warn};

use crate::rules::breaker;
use crate::rules::budget;
use crate::rules::overdue::Transition;
use crate::rules::states::StateName;

/// Logs the transition of an overdue row that was just written.
pub(crate) fn transition(transition: &Transition) {
    let Transition { key, from, to, reason, resends, .. } = transition;
    let (message_id, upstream) = (key.message_id, &key.upstream);
    match to.name() {
        StateName::Conflict => error!(
            %message_id, %upstream, resends, from_state = %from, reason,
            "conflict: its upstream says that it never committed, and a consumer or the upstream's own records say otherwise"
        ),
        StateName::Parked => {
            warn!(%message_id, %upstream, resends, from_state = %from, reason, "parked: an operator has to look");
        }
        StateName::Waiting if *from == StateName::Waiting => {
            debug!(%message_id, %upstream, resends, reason, "the row still waits");
        }
        StateName::Asking if *from == StateName::Waiting => {
            debug!(%message_id, %upstream, resends, reason, "this replica asks the upstream for a resend");
        }
        state => {
            info!(%message_id, %upstream, resends, from_state = %from, reason, "{state}");
        }
    }
}

/// Logs that the circuit of an upstream opened, is tried, or closed.
pub(crate) fn breaker(upstream: &Name, change: breaker::Change, why: &str) {
    match change {
        breaker::Change::Opened(pause) => warn!(
            %upstream, breaker = "open", pause_ms = pause.as_millis(), why,
            "the upstream does not answer: this replica pauses it for a while and uses no attempt"
        ),
        breaker::Change::HalfOpened => {
            info!(%upstream, breaker = "half_open", "this replica tries the upstream with one call");
        }
        breaker::Change::Closed => {
            info!(%upstream, breaker = "closed", "the upstream answers again");
        }
    }
}

/// Logs that a storm begins or ends.
pub(crate) fn storm(upstream: &Name, change: budget::Change) {
    match change {
        budget::Change::Begun { share } => warn!(
            %upstream, missing_percent = (share * 100.0).round(),
            "much is missing: only canaries are asked for until consumers confirm them"
        ),
        budget::Change::Over { canaries } => {
            info!(%upstream, canaries, "the storm is over: no resend of the upstream is held back any more");
        }
    }
}

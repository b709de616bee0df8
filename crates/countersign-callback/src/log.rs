//! One log line for each change that is worth a person's time.

use countersign_protocol::Name;
use tracing::{debug, error, info, warn};

use crate::rules::breaker;
use crate::rules::budget;
use crate::rules::overdue::Transition;
use crate::rules::states::StateName;

/// Logs what has just become of an overdue message.
pub(crate) fn transition(transition: &Transition) {
    let Transition { key, from, to, reason, resends, .. } = transition;
    let (message_id, upstream) = (key.message_id, &key.upstream);
    match to.name() {
        StateName::Conflict => error!(
            %message_id, %upstream, resends, from_state = %from, reason,
            "conflict: confirmed although its upstream says it never committed"
        ),
        StateName::Parked => {
            warn!(%message_id, %upstream, resends, from_state = %from, reason, "parked: a person has to look");
        }
        StateName::Waiting if *from == StateName::Waiting => {
            debug!(%message_id, %upstream, resends, reason, "still waiting");
        }
        StateName::Asking if *from == StateName::Waiting => {
            debug!(%message_id, %upstream, resends, reason, "asking");
        }
        state => {
            info!(%message_id, %upstream, resends, from_state = %from, reason, "{state}");
        }
    }
}

/// Logs that an upstream is left alone from now on, tried, or asked again.
pub(crate) fn breaker(upstream: &Name, change: breaker::Change, why: &str) {
    match change {
        breaker::Change::Opened(pause) => warn!(
            %upstream, breaker = "open", pause_ms = pause.as_millis(), why,
            "the upstream does not answer: left alone for a while, no attempt is used"
        ),
        breaker::Change::HalfOpened => {
            info!(%upstream, breaker = "half_open", "the upstream is tried with one call");
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
            "much is missing: only canaries are asked for until they are confirmed"
        ),
        budget::Change::Over { canaries } => {
            info!(%upstream, canaries, "the storm is over: no resend is held back any more");
        }
    }
}

//! Bindings: there, and what goes wrong without them.

use countersign_protocol::topology::{self, Binding};

use super::super::finding::{Finding, RESTART_CALLBACK, error};
use super::actual::ActualTopology;

/// A binding that is missing between an exchange and a queue that are both there: without one of
/// them, that is the finding.
pub(crate) fn check(wanted: &Binding, actual: &ActualTopology) -> Option<Finding> {
    let Binding { exchange, key, queue } = wanted;
    let both = actual.exchanges.contains_key(exchange) && actual.queues.contains_key(queue);
    let bound = actual.bindings.contains(&(exchange.clone(), key.clone(), queue.clone()));
    (both && !bound).then(|| {
        let harm = match exchange.as_str() {
            topology::CHECK_DUE => {
                "checks that come due have nowhere to go, and stop the wait queues"
            }
            topology::CHECK => "checks of this delay are refused: no message can be armed with it",
            topology::QUARANTINE => {
                "a message that cannot be read cannot be put aside, and holds up its queue"
            }
            topology::ROLLED_BACK => {
                "rolled-back notices are lost: each costs a call of the upstream"
            }
            _ => "confirms with this key go elsewhere",
        };
        error(
            format!("binding of {queue} to {exchange}"),
            format!("it is missing (key {key:?}): {harm}"),
            RESTART_CALLBACK,
        )
    })
}

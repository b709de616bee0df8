//! The part that a queue plays, by its name.

use countersign_protocol::topology;

/// The part that a queue plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// Checks wait in it until they come due.
    CheckWait,
    /// The callback service reads checks or confirms from it.
    Intake,
    /// The callback service reads rolled-back notices from it.
    Notices,
    /// A person looks into it.
    Quarantine,
    /// This consumer's queue.
    Consumed(&'a str),
    /// Failed deliveries of this consumer's queue wait in it for their next try.
    Retry(&'a str),
    /// Deliveries that the consumer of this queue rejected.
    Dead(&'a str),
    /// None of these.
    Other,
}

impl<'a> Role<'a> {
    /// The part of the queue `name`, where `consumed` are the consumers' queues.
    pub(crate) fn of(name: &'a str, consumed: &'a [String]) -> Self {
        match name {
            topology::CHECK_DUE => return Self::Intake,
            topology::ROLLED_BACK => return Self::Notices,
            topology::QUARANTINE => return Self::Quarantine,
            _ if name.starts_with("countersign.check.wait.") => return Self::CheckWait,
            _ if name.starts_with("countersign.confirm.") => return Self::Intake,
            _ => {}
        }
        for queue in consumed {
            match name.strip_prefix(queue.as_str()) {
                Some("") => return Self::Consumed(queue),
                Some(".dead") => return Self::Dead(queue),
                Some(rest) if rest.starts_with(".retry.") => return Self::Retry(queue),
                _ => {}
            }
        }
        Self::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_queue_tells_its_part() {
        let consumed = ["logistics.orders".to_owned()];
        for (name, role) in [
            ("countersign.check.wait.5s", Role::CheckWait),
            ("countersign.check.due", Role::Intake),
            ("countersign.confirm.63", Role::Intake),
            ("countersign.rolled_back", Role::Notices),
            ("countersign.quarantine", Role::Quarantine),
            ("logistics.orders", Role::Consumed("logistics.orders")),
            ("logistics.orders.retry.1s", Role::Retry("logistics.orders")),
            ("logistics.orders.dead", Role::Dead("logistics.orders")),
            ("logistics.orders2", Role::Other),
            ("billing.orders", Role::Other),
        ] {
            assert_eq!(Role::of(name, &consumed), role, "{name}");
        }
    }
}

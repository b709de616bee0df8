//! What the tests of several rules begin with.

use std::time::Duration;

use countersign_protocol::{MessageId, Name, UnixMillis};
use uuid::Uuid;

use crate::rules::backlog::{Depth, Reading};
use crate::rules::origin::Origin;
use crate::rules::overdue::{Key, Overdue, Policy, Recorded, Report, Word};
use crate::rules::states::{State, StateName};

/// Any moment: the tests count from it.
pub(crate) const NOW: i64 = 1_795_231_234_567;

pub(crate) const POLICY: Policy = Policy {
    max_resends: 3,
    resend_delay: Duration::from_secs(30),
    park_after: Duration::from_secs(1_000),
    backlog_grace: Duration::from_secs(10),
    management_lag: Duration::from_secs(12),
};

pub(crate) fn now() -> UnixMillis {
    UnixMillis::from_ms(NOW)
}

pub(crate) fn in_s(seconds: i64) -> UnixMillis {
    UnixMillis::from_ms(NOW + seconds * 1_000)
}

pub(crate) fn in_ms(ms: i64) -> UnixMillis {
    UnixMillis::from_ms(NOW + ms)
}

pub(crate) fn name(name: &str) -> Name {
    name.parse().unwrap()
}

pub(crate) fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|one| name(one)).collect()
}

/// A state that is due, or whose lease ends, now.
pub(crate) fn state(of: StateName) -> State {
    of.with(Some(now()), Some(Uuid::nil())).unwrap()
}

/// A row of `orders`, to be confirmed by `logistics`, whose check came due now.
pub(crate) fn overdue(in_state: StateName) -> Overdue {
    Overdue {
        key: Key { message_id: MessageId::from_parts(now(), [0; 10]), upstream: name("orders") },
        origin: Origin::Unnamed,
        consumers: names(&["logistics"]),
        state: state(in_state),
        reason: "what was last".to_owned(),
        resends: 0,
        calls_not_made: 0,
        granted: 0,
        granted_at: None,
        granted_by_person: false,
        since: now(),
        missing_after: now(),
        sent_at: None,
    }
}

/// A queue that was looked into all the time, and last found to hold so much at this second.
pub(crate) fn depth(read_at_s: i64, ready: u64, held: Option<u64>) -> Depth {
    Depth {
        looked_at: in_s(read_at_s),
        looked_since: in_s(-1_000),
        reading: Some(Reading { at: in_s(read_at_s), ready, held }),
        empty_at: None,
        nobody_since: None,
        left_since: None,
        passing: None,
        passed_to: None,
    }
}

pub(crate) fn recorded(confirmed: &[&str], reports: &[(&str, Word)]) -> Recorded {
    let report = |(consumer, word): &(&str, Word)| Report {
        consumer: name(consumer),
        word: *word,
        reason: "because".to_owned(),
    };
    Recorded { confirmed: names(confirmed), reports: reports.iter().map(report).collect() }
}

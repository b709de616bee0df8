//! The answer to `RequestResend`: pure functions of the record, the source's word, the id's age and
//! the policy.

use std::time::Duration;

use crate::message::Message;
use crate::record::Record;
use crate::source::Found;

/// Between which ages a missing id proves something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) longest_transaction: Duration,
    pub(crate) retention: Duration,
}

/// Whether the caller has named the database that it means, and it is this one. Whichever database is
/// asked without a name may be the wrong one: there an absent id proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    ThisDatabase,
    AnyDatabase,
}

/// The next step after the first look at the records.
#[derive(Debug, PartialEq)]
pub(crate) enum FirstLook {
    /// Ask the source; the row does not change any more.
    AskSource,
    /// Insert a fence, so that no transaction commits this id from now on; then ask the source.
    Fence,
    /// Answer at once.
    Answer(Answer),
}

/// The answer, before any message is sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Republish(Message),
    NeverCommitted,
    InProgress {
        retry_after: Duration,
    },
    Withdrawn {
        reason: String,
    },
    Unknown {
        reason: String,
    },
    /// Another upstream or another database is meant.
    Misdirected {
        reason: String,
    },
}

/// Decides after a look at the records that waits for no open transaction.
pub(crate) fn first_look(record: Record, meant: Meant, age: Duration, policy: Policy) -> FirstLook {
    match record {
        Record::Enlisted | Record::Fenced => FirstLook::AskSource,
        Record::OfAnother => FirstLook::Answer(Answer::Unknown {
            reason: "another upstream of this database has the id: an id belongs to one upstream"
                .to_owned(),
        }),
        Record::Absent if age < policy.longest_transaction => {
            FirstLook::Answer(still_young(age, policy))
        }
        Record::Absent if age > policy.retention => FirstLook::Answer(too_old(policy)),
        // The id is not fenced, and the source is asked: it may know what the records do not.
        Record::Absent if meant == Meant::AnyDatabase => FirstLook::AskSource,
        Record::Absent => FirstLook::Fence,
    }
}

/// Decides when the row does not change any more and the source was asked.
pub(crate) fn by_record(record: Record, meant: Meant, found: Found) -> Answer {
    match (record, found) {
        // Also when the id is fenced: the data then came some other way, perhaps by a restored
        // backup. The message is there, so consumers are to process it.
        (_, Found::Message(message)) => Answer::Republish(message),
        (_, Found::Withdrawn { reason }) => Answer::Withdrawn { reason },
        (Record::Enlisted, Found::NotFound) => Answer::Unknown {
            reason: "its transaction committed, but the message source does not find it".to_owned(),
        },
        (Record::Fenced | Record::Absent, Found::NotFound) if meant == Meant::ThisDatabase => {
            Answer::NeverCommitted
        }
        (_, Found::NotFound) => Answer::Unknown {
            reason: "it is not here, and the request names no database: whether its transaction would have committed here is not known"
                .to_owned(),
        },
    }
}

/// Decides without records, by the source's word and the id's age.
pub(crate) fn by_age(found: Found, age: Duration, policy: Policy) -> Answer {
    match found {
        Found::Message(message) => Answer::Republish(message),
        Found::Withdrawn { reason } => Answer::Withdrawn { reason },
        Found::NotFound if age < policy.longest_transaction => still_young(age, policy),
        Found::NotFound if age > policy.retention => too_old(policy),
        Found::NotFound => Answer::NeverCommitted,
    }
}

fn still_young(age: Duration, policy: Policy) -> Answer {
    Answer::InProgress { retry_after: policy.longest_transaction.saturating_sub(age) }
}

fn too_old(policy: Policy) -> Answer {
    let days = policy.retention.as_secs() / (24 * 60 * 60);
    Answer::Unknown { reason: format!("older than this upstream keeps records: {days} days") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        longest_transaction: Duration::from_secs(60),
        retention: Duration::from_secs(30 * 24 * 60 * 60),
    };
    const YOUNG: Duration = Duration::from_secs(20);
    const OLD: Duration = Duration::from_secs(61);
    const ANCIENT: Duration = Duration::from_secs(31 * 24 * 60 * 60);

    fn message() -> Message {
        Message::new("orders", "order.placed", "")
    }

    fn withdrawn() -> Found {
        Found::Withdrawn { reason: "cancelled".to_owned() }
    }

    fn in_40_s() -> Answer {
        Answer::InProgress { retry_after: Duration::from_secs(40) }
    }

    fn unknown(answer: &Answer) -> bool {
        matches!(answer, Answer::Unknown { .. })
    }

    #[test]
    fn an_absent_id_is_fenced_only_when_no_transaction_can_still_bring_it() {
        for (row, age, expected) in [
            (Record::OfAnother, OLD, None),
            (Record::Absent, YOUNG, Some(FirstLook::Answer(in_40_s()))),
            (Record::Absent, OLD, Some(FirstLook::Fence)),
            (Record::Absent, POLICY.longest_transaction, Some(FirstLook::Fence)),
            (Record::Absent, ANCIENT, None),
            (Record::Enlisted, YOUNG, Some(FirstLook::AskSource)),
            (Record::Enlisted, ANCIENT, Some(FirstLook::AskSource)),
            (Record::Fenced, OLD, Some(FirstLook::AskSource)),
        ] {
            let look = first_look(row, Meant::ThisDatabase, age, POLICY);
            match expected {
                Some(expected) => assert_eq!(look, expected, "{row:?} at {age:?}"),
                None => assert!(matches!(&look, FirstLook::Answer(answer) if unknown(answer))),
            }
        }
    }

    #[test]
    fn what_is_enlisted_and_not_found_is_unknown_and_never_never_committed() {
        let message = message();
        for (row, found, expected) in [
            (
                Record::Enlisted,
                Found::Message(message.clone()),
                Some(Answer::Republish(message.clone())),
            ),
            (Record::Fenced, Found::Message(message.clone()), Some(Answer::Republish(message))),
            (Record::Enlisted, withdrawn(), Some(Answer::Withdrawn { reason: "cancelled".into() })),
            (Record::Fenced, Found::NotFound, Some(Answer::NeverCommitted)),
            (Record::Enlisted, Found::NotFound, None),
        ] {
            let answer = by_record(row, Meant::ThisDatabase, found);
            match expected {
                Some(expected) => assert_eq!(answer, expected, "{row:?}"),
                None => assert!(unknown(&answer), "{row:?}: {answer:?}"),
            }
        }
    }

    #[test]
    fn a_request_that_names_no_database_is_never_answered_never_committed() {
        let any = Meant::AnyDatabase;
        assert_eq!(first_look(Record::Absent, any, OLD, POLICY), FirstLook::AskSource);
        for row in [Record::Absent, Record::Fenced, Record::Enlisted] {
            assert!(unknown(&by_record(row, any, Found::NotFound)), "{row:?}");
            let message = message();
            let answer = by_record(row, any, Found::Message(message.clone()));
            assert_eq!(answer, Answer::Republish(message), "{row:?}");
        }
    }

    #[test]
    fn without_records_the_age_decides() {
        let message = message();
        let republish = Answer::Republish(message.clone());
        for (found, age, expected) in [
            (Found::Message(message.clone()), YOUNG, Some(republish.clone())),
            (Found::Message(message), ANCIENT, Some(republish)),
            (Found::NotFound, YOUNG, Some(in_40_s())),
            (Found::NotFound, OLD, Some(Answer::NeverCommitted)),
            (Found::NotFound, ANCIENT, None),
            (withdrawn(), YOUNG, Some(Answer::Withdrawn { reason: "cancelled".into() })),
        ] {
            let answer = by_age(found, age, POLICY);
            match expected {
                Some(expected) => assert_eq!(answer, expected, "at {age:?}"),
                None => assert!(unknown(&answer), "{answer:?}"),
            }
        }
    }
}

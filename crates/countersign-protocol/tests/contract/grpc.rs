//! The descriptor set is what reflection serves: a service that it lacks cannot be called by hand.

use countersign_protocol::grpc::{DESCRIPTOR, request_resend_response::Outcome};

#[test]
fn the_descriptor_set_has_both_services() {
    for name in ["Upstream", "RequestResend", "Callback", "GetMessage", "countersign.v1"] {
        let found = DESCRIPTOR.windows(name.len()).any(|window| window == name.as_bytes());
        assert!(found, "{name} is not in the descriptor set");
    }
}

/// The numbers are on the wire: a changed one is another answer to those who have not been updated.
#[test]
fn the_outcomes_of_a_resend_keep_their_numbers() {
    let outcomes = [
        (Outcome::Unspecified, 0, "OUTCOME_UNSPECIFIED"),
        (Outcome::Republished, 1, "REPUBLISHED"),
        (Outcome::NeverCommitted, 2, "NEVER_COMMITTED"),
        (Outcome::InProgress, 3, "IN_PROGRESS"),
        (Outcome::Withdrawn, 4, "WITHDRAWN"),
        (Outcome::NotPublished, 5, "NOT_PUBLISHED"),
        (Outcome::Unknown, 6, "UNKNOWN"),
    ];
    for (outcome, number, name) in outcomes {
        assert_eq!((outcome as i32, outcome.as_str_name()), (number, name));
    }
}

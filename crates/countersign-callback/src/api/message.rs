//! `GetMessage`: the story of one message.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::GetMessageResponse;
use tonic::Status;

use crate::rules::states::StateName;

/// Reads a message's id.
///
/// # Errors
/// `INVALID_ARGUMENT` if that is no message's id.
pub(crate) fn id(text: &str) -> Result<MessageId, Status> {
    text.parse().map_err(|why| {
        Status::invalid_argument(format!("message_id: {why}; a message's id is a UUIDv7"))
    })
}

/// The answer, out of the story as the ledger has it: there, a message without an overdue row has
/// no state.
#[must_use]
pub(crate) fn answer(mut story: GetMessageResponse) -> GetMessageResponse {
    if story.state.is_empty() && story.confirms.is_empty() {
        story.state = "unknown".to_owned();
        if let Some(report) = story.reports.first() {
            story.reason = format!("not confirmed, but {} by {}", report.outcome, report.consumer);
        }
    } else if story.state.is_empty() {
        story.state = StateName::Confirmed.to_string();
    }
    // The row of a message that is being asked for has the end of its lease there.
    if story.state != StateName::Waiting.to_string() {
        story.next_at_ms = 0;
    }
    story
}

#[cfg(test)]
mod tests {
    use countersign_protocol::grpc::get_message_response::{Confirmation, Report};

    use super::*;

    #[test]
    fn a_message_without_a_row_is_unknown_until_a_consumer_confirms_it() {
        let reports = vec![Report {
            consumer: "logistics".to_owned(),
            outcome: "rejected".to_owned(),
            ..Report::default()
        }];
        let unknown = answer(GetMessageResponse { reports, ..GetMessageResponse::default() });
        let told = (unknown.state.as_str(), unknown.reason.as_str());
        assert_eq!(told, ("unknown", "not confirmed, but rejected by logistics"));
        let confirms = vec![Confirmation::default()];
        let confirmed = answer(GetMessageResponse { confirms, ..GetMessageResponse::default() });
        assert_eq!((confirmed.state.as_str(), confirmed.reason.as_str()), ("confirmed", ""));
    }

    #[test]
    fn only_a_waiting_message_says_when_it_is_judged_again() {
        for (state, expected) in [("waiting", 7), ("asking", 0)] {
            let state = state.to_owned();
            let story =
                GetMessageResponse { state, next_at_ms: 7, ..GetMessageResponse::default() };
            assert_eq!(answer(story).next_at_ms, expected);
        }
    }
}

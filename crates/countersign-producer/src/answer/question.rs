//! A `RequestResend` that the upstream can answer.

use std::time::Duration;

use countersign_protocol::check::MAX_CONSUMERS;
use countersign_protocol::database_id::InvalidDatabaseId;
use countersign_protocol::envelope::clean_reason;
use countersign_protocol::grpc::RequestResendRequest;
use countersign_protocol::{Attempt, DatabaseId, MessageId, Name, Window};
use tonic::Status;

use crate::clock;

/// The message that the caller asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) id: MessageId,
    /// `None`: an operator asks, by hand.
    pub(crate) attempt: Option<Attempt>,
    pub(crate) missing: Vec<Name>,
    pub(crate) reason: String,
    /// The upstream that is meant. `None`: whichever answers.
    pub(crate) upstream: Option<Name>,
    /// The database that is meant. `None`: whichever answers.
    pub(crate) database: Option<DatabaseId>,
}

/// An error repeats no more characters than this of an id that cannot be read. A UUID has 36.
const SHOWN: usize = 64;

impl Question {
    /// Reads a request. The error says what is wrong with it.
    pub(crate) fn read(request: RequestResendRequest) -> Result<Self, Status> {
        let RequestResendRequest {
            message_id,
            attempt,
            missing_consumers,
            reason,
            upstream,
            database: database_text,
        } = request;
        let id: MessageId = message_id.parse().map_err(|why| {
            Status::invalid_argument(format!(
                "message_id {:?}: {why}; give the message's id, a UUIDv7 in text",
                shown(&message_id)
            ))
        })?;
        // However old an id is, the records or the source may know it.
        if Window::at(clock::now(), Duration::MAX).admit(id).is_err() {
            return Err(Status::invalid_argument(format!(
                "message_id {id}: made more than 24 hours in the future ({} ms since 1970)",
                id.time()
            )));
        }
        if missing_consumers.len() > MAX_CONSUMERS {
            return Err(Status::invalid_argument(format!(
                "missing_consumers: {} given, at most {MAX_CONSUMERS} can have to confirm",
                missing_consumers.len()
            )));
        }
        let missing = missing_consumers.iter().map(|name| name.parse()).collect::<Result<_, _>>();
        let missing =
            missing.map_err(|why| Status::invalid_argument(format!("missing_consumers: {why}")))?;
        let attempt = Attempt::from_number(attempt);
        let upstream = (!upstream.is_empty()).then(|| upstream.parse()).transpose();
        let upstream =
            upstream.map_err(|why| Status::invalid_argument(format!("upstream: {why}")))?;
        let database = (!database_text.is_empty()).then(|| database_text.parse()).transpose();
        let database = database.map_err(|why: InvalidDatabaseId| {
            Status::invalid_argument(format!("database {:?}: {why}", shown(&database_text)))
        })?;
        Ok(Self { id, attempt, missing, reason: clean_reason(&reason), upstream, database })
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use countersign_protocol::window::MAX_AHEAD;
    use tonic::Code;

    use super::*;

    fn asking(message_id: &str) -> RequestResendRequest {
        RequestResendRequest { message_id: message_id.to_owned(), ..Default::default() }
    }

    #[test]
    fn nonsense_is_refused_with_what_is_wrong_with_it() {
        let ahead = MessageId::from_parts(clock::now().after(MAX_AHEAD * 2), [0; 10]).to_string();
        let good = MessageId::generate().to_string();
        let with = |missing: Vec<String>| RequestResendRequest {
            missing_consumers: missing,
            ..asking(&good)
        };
        for (request, part) in [
            (asking(""), "not a UUID"),
            (asking("nonsense"), "\"nonsense\": not a UUID"),
            (asking("6f9619ff-8b86-4011-b42d-00c04fc964ff"), "not of version 7"),
            (asking(&ahead), "in the future"),
            (asking(&"x".repeat(100_000)), "not a UUID"),
            (
                RequestResendRequest { upstream: "Orders!".into(), ..asking(&good) },
                "\"Orders!\" is not a name",
            ),
            (
                RequestResendRequest { database: "orders".into(), ..asking(&good) },
                "database \"orders\"",
            ),
            (with(vec!["Logistics!".into()]), "\"Logistics!\" is not a name"),
            (with(vec!["logistics".into(); 17]), "17 given"),
        ] {
            let status = Question::read(request).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(part), "{}", status.message());
            assert!(status.message().len() < 500, "{}", status.message().len());
        }
    }

    #[test]
    fn attempt_0_means_by_hand() {
        let id = MessageId::generate();
        assert_eq!(Question::read(asking(&id.to_string())).unwrap().attempt, None);
        let second = RequestResendRequest { attempt: 2, ..asking(&id.to_string()) };
        assert_eq!(Question::read(second).unwrap().attempt, Attempt::from_number(2));
    }
}

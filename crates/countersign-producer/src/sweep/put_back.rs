//! Putting a message back into the flow that nobody would ask for any more.

use countersign_protocol::Attempt;
use tracing::{debug, warn};

use crate::answer::decision::Answer;
use crate::answer::service::{LookUp, Resent};
use crate::message::Message;
use crate::send::publisher::Publisher;
use crate::sql::EnlistedMessage;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PutBack {
    /// It has a fresh check: whatever became of the publish, somebody asks for it again.
    Armed,
    /// It is not to be sent.
    NotWanted,
    /// Not now: the database or the broker is away. The same again later.
    NotNow(String),
}

/// The flow once more for a committed message: its check first, for those who had to confirm it,
/// then the message.
///
/// A message that cannot be found or sent gets its check all the same. When that comes due, the
/// callback service asks for it, gets the same answer, and has a person look at it.
pub(crate) async fn put_back(
    publisher: &Publisher,
    look_up: &LookUp,
    lost: &EnlistedMessage,
    attempt: Attempt,
) -> PutBack {
    let EnlistedMessage { id, consumers } = lost;
    let answer = match look_up(*id).await {
        Ok(answer) => answer,
        Err(why) if why.is_passing() => return PutBack::NotNow(why.to_string()),
        Err(why) => Answer::Unknown { reason: why.to_string() },
    };
    let found = match found(answer) {
        Found::Message(message) => message.with_consumers(consumers.clone()),
        Found::NotWanted(reason) => {
            debug!(message_id = %id, reason, "unconfirmed, and not to be sent");
            return PutBack::NotWanted;
        }
        Found::Nothing(reason) => return armed_only(publisher, lost, &reason).await,
    };
    if let Some(problem) = found.problem() {
        return armed_only(publisher, lost, &problem).await;
    }
    if let Err(why) = publisher.rearm(*id, consumers.clone()).await {
        return PutBack::NotNow(why);
    }
    match publisher.send(&found, attempt).await {
        Resent::Done(_) => {}
        Resent::Not(why) | Resent::Unclear(why) => {
            warn!(message_id = %id, why, "put back, but perhaps not published: its check will have it sent again");
        }
    }
    PutBack::Armed
}

async fn armed_only(publisher: &Publisher, lost: &EnlistedMessage, why: &str) -> PutBack {
    warn!(message_id = %lost.id, why, "unconfirmed, and cannot be sent: its check will have a person look at it");
    match publisher.rearm(lost.id, lost.consumers.clone()).await {
        Ok(()) => PutBack::Armed,
        Err(why) => PutBack::NotNow(why),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Message(Message),
    NotWanted(String),
    Nothing(String),
}

fn found(answer: Answer) -> Found {
    match answer {
        Answer::Republish(message) => Found::Message(message),
        Answer::Withdrawn { reason } => Found::NotWanted(reason),
        Answer::Unknown { reason } => Found::Nothing(reason),
        // It was enlisted when the sweep read it, so neither can be.
        Answer::NeverCommitted => Found::Nothing("its enlisted id is gone".to_owned()),
        Answer::InProgress { .. } => Found::Nothing("its enlisted id is in progress".to_owned()),
    }
}

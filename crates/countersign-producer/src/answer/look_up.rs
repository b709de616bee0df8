//! Looking an id up: in `countersign.enlisted` and with the user's source, or with the source
//! alone.

use std::time::Duration;

use countersign_postgres::{CommitError, Database, Transaction, agree, sqlstate};
use countersign_protocol::{DatabaseId, MessageId, Name};
use thiserror::Error;
use tokio::time::timeout;

use crate::answer::decision::{self, Answer, FirstLook, Meant, Policy};
use crate::clock;
use crate::record::{Owner, Record};
use crate::source::{Found, MessageSource, SourceError};
use crate::sql::{self, Look};

/// Why the upstream cannot answer now.
#[derive(Debug, Error)]
pub(crate) enum Unanswered {
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the message source: {0}")]
    Source(SourceError),
    #[error("the message source did not answer within {} s", FINDS_WITHIN.as_secs())]
    SourceIsSilent,
    #[error("the message source was asked for {asked} and returned {returned}")]
    WrongMessage { asked: MessageId, returned: MessageId },
}

/// The pause after which a question is worth another try while the clocks disagree: an operator has to act.
const CLOCKS_DISAGREE: Duration = Duration::from_secs(60);

/// How long the user's source may look for a message. Its statements are not ours to bound one by one;
/// the callback service has stopped waiting long before, and asks again.
const FINDS_WITHIN: Duration = Duration::from_secs(30);

/// When the caller should ask again while a transaction with this id is open. A business
/// transaction is usually over by then.
const OPEN_RETRY_AFTER: Duration = Duration::from_secs(5);

/// `lock_not_available`
const LOCK_TIMEOUT: &str = "55P03";
/// `check_violation`: no partition of the table takes this row.
const NO_PARTITION: &str = "23514";

/// What is looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) id: MessageId,
    /// This upstream.
    pub(crate) upstream: &'a Name,
    /// The database that the caller means, if it says.
    pub(crate) database: Option<DatabaseId>,
}

/// An answer, and the database that was looked at.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) answer: Answer,
    pub(crate) database: Option<DatabaseId>,
}

/// Looks the id up in `countersign.enlisted`, on the database's clock.
pub(crate) async fn by_enlistment(
    store: &Database,
    source: &impl MessageSource,
    policy: Policy,
    asked: Asked<'_>,
) -> Result<Looked, Unanswered> {
    let Asked { id, upstream, database } = asked;
    let mut reading = Transaction::open(store, sql::READ_ONLY).await?;
    let Look { record, now, database: actual } =
        sql::look_up_now(&mut reading, upstream, id).await?;
    let looked = |answer| Looked { answer, database: Some(actual) };
    let meant = match database {
        Some(meant) if meant != actual => {
            reading.rollback().await?;
            return Ok(looked(wrong_database(meant, &actual.to_string())));
        }
        Some(_) => Meant::ThisDatabase,
        None => Meant::AnyDatabase,
    };
    let next = match decision::first_look(record, meant, now.since(id.time()), policy) {
        // How old the id is, is not known by a wrong clock, and so not whether its records are still there.
        FirstLook::Fence if agree(now).is_err() => {
            FirstLook::Answer(Answer::InProgress { retry_after: CLOCKS_DISAGREE })
        }
        next => next,
    };
    match next {
        FirstLook::AskSource => {
            let found = find(source, reading.for_user(), id).await?;
            reading.rollback().await?;
            Ok(looked(decision::by_record(record, meant, found)))
        }
        FirstLook::Answer(answer) => {
            reading.rollback().await?;
            Ok(looked(answer))
        }
        FirstLook::Fence => {
            reading.rollback().await?;
            let owner = Owner { upstream: upstream.clone(), database: actual };
            let record = match fence(store, &owner, id).await? {
                Fence::Stands(record) => record,
                Fence::Blocked => {
                    return Ok(looked(Answer::InProgress { retry_after: OPEN_RETRY_AFTER }));
                }
                Fence::NoPlace => {
                    let reason = "no partition of countersign.enlisted holds ids of its time";
                    return Ok(looked(Answer::Unknown { reason: reason.to_owned() }));
                }
            };
            let mut reading = Transaction::open(store, sql::READ_ONLY).await?;
            let found = find(source, reading.for_user(), id).await?;
            reading.rollback().await?;
            Ok(looked(decision::by_record(record, meant, found)))
        }
    }
}

/// Looks the id up by its age, on this process's clock.
pub(crate) async fn by_age(
    source: &impl MessageSource<()>,
    policy: Policy,
    asked: Asked<'_>,
) -> Result<Looked, Unanswered> {
    let Asked { id, database, .. } = asked;
    let looked = |answer| Looked { answer, database: None };
    if let Some(meant) = database {
        return Ok(looked(wrong_database(meant, "none")));
    }
    // The age is taken before the source is asked: otherwise a transaction could commit after the
    // source has looked, and the id count as old.
    let age = clock::now().since(id.time());
    let found = find(source, &mut (), id).await?;
    Ok(looked(decision::by_age(found, age, policy)))
}

fn wrong_database(meant: DatabaseId, actual: &str) -> Answer {
    let reason =
        format!("the message's transaction belongs to database {meant}; this one is {actual}");
    Answer::Misdirected { reason }
}

async fn find<Store>(
    source: &impl MessageSource<Store>,
    store: &mut Store,
    id: MessageId,
) -> Result<Found, Unanswered> {
    let found = timeout(FINDS_WITHIN, source.find(store, id)).await;
    let found = found.map_err(|_| Unanswered::SourceIsSilent)?.map_err(Unanswered::Source)?;
    match &found {
        Found::Message(message) if message.id() != id => {
            Err(Unanswered::WrongMessage { asked: id, returned: message.id() })
        }
        _ => Ok(found),
    }
}

enum Fence {
    /// The row is committed, and final.
    Stands(Record),
    /// A transaction with this id is open.
    Blocked,
    /// The table has no partition for ids of this time.
    NoPlace,
}

/// Makes sure that the id is in the table: as a transaction's committed id, or as a fence.
async fn fence(store: &Database, owner: &Owner, id: MessageId) -> Result<Fence, sqlx::Error> {
    let mut fencing = match Transaction::open(store, &sql::fence(owner, id)).await {
        Ok(fencing) => fencing,
        Err(error) => {
            return match sqlstate(&error).as_deref() {
                Some(LOCK_TIMEOUT) => Ok(Fence::Blocked),
                Some(NO_PARTITION) => Ok(Fence::NoPlace),
                _ => Err(error),
            };
        }
    };
    let record = sql::look_up(&mut fencing, id).await?;
    // Only a committed fence is an answer. When the commit's outcome is unknown, the next request
    // looks the fence up.
    fencing.commit().await.map_err(|error| match error {
        CommitError::NotCommitted(cause) | CommitError::Unknown(cause) => cause,
    })?;
    Ok(Fence::Stands(record))
}

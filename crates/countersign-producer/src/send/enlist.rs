//! The transaction that sends messages: their ids are in it from its first statement.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use countersign_postgres::{CommitError as TransactionError, Transaction, is_duplicate_key};
use countersign_protocol::MessageId;
use sqlx::{PgConnection, PgPool};
use thiserror::Error;

use crate::answer::decision::Row;
use crate::message::Message;
use crate::send::arm::{Armed, Arming, Batch, Held, NotArmed};
use crate::send::committed::Committed;
use crate::sql;

/// A transaction that sends messages. Derefs to its connection: do your inserts on it. Next:
/// [`commit`](Self::commit) or [`rollback`](Self::rollback).
///
/// Savepoints are `sqlx::Connection::begin` on it, as usual. Do not send `COMMIT` or `ROLLBACK` by
/// hand.
#[must_use = "dropped without `commit`, the transaction is rolled back and nothing is sent"]
pub struct Enlisted {
    transaction: Transaction,
    batch: Batch,
    arming: Arming,
}

/// How far transactions may see each other's doings
/// (<https://www.postgresql.org/docs/current/transaction-iso.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what is committed when it begins.
    #[default]
    ReadCommitted,
    /// Every statement sees what was committed when the transaction began.
    RepeatableRead,
    /// As if one transaction ran after the other.
    Serializable,
}

/// Why a transaction was not begun.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BeginError {
    /// The database: when `trouble` of the cause says "again", begin again with what is given back.
    #[error("the transaction could not be begun")]
    Database {
        /// What it says.
        #[source]
        source: sqlx::Error,
        /// The messages, still armed.
        armed: Armed,
    },
    /// The ids are too old to begin a transaction: make new messages and arm those.
    #[error(
        "armed {} ms ago, or the id was made then: at most {} ms are allowed, because somebody who asks for a message that is not there takes it for rolled back some time later; make a new message and arm it",
        age.as_millis(), limit.as_millis()
    )]
    TooOld {
        /// How old.
        age: Duration,
        /// The setting `armed_max_age`.
        limit: Duration,
    },
    /// A transaction with this id has committed already.
    #[error("message {0} was committed by an earlier transaction with the same id")]
    AlreadyCommitted(MessageId),
    /// Somebody asked for this message, did not find it and was told that it never will commit.
    #[error(
        "message {0} is fenced: the callback service was told that its transaction never commits; make a new message and arm it"
    )]
    Fenced(MessageId),
}

/// Why a transaction was not, or may not have been, committed. Nothing was sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The broker does not hold the check, so the transaction was rolled back. The messages are in
    /// the error, to be armed again.
    #[error(transparent)]
    NotArmed(#[from] NotArmed),
    /// The database rolled it back: a deferred constraint, a serialization failure, or a statement
    /// that had failed before. It can be begun again with what is given back.
    #[error("the transaction was rolled back")]
    NotCommitted {
        /// What it says.
        #[source]
        source: sqlx::Error,
        /// The messages, still armed.
        armed: Armed,
    },
    /// It may be committed or not. If it is, the messages are sent when their checks come due.
    #[error(
        "whether the transaction was committed is unknown; if it was, its messages follow when their checks come due"
    )]
    Unknown {
        /// What happened.
        #[source]
        source: sqlx::Error,
    },
}

impl Armed {
    /// Begins the transaction and enlists the messages' ids, in one round trip (two when messages are
    /// stored).
    ///
    /// # Errors
    /// When the database refuses, or when it is too late for these ids.
    ///
    /// # Cancel safety
    /// When the future is dropped, nothing remains.
    pub async fn begin(self, pool: &PgPool) -> Result<Enlisted, BeginError> {
        self.begin_at(pool, Isolation::default()).await
    }

    /// [`begin`](Self::begin)s a transaction of this isolation level.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    ///
    /// # Cancel safety
    /// As [`begin`](Self::begin).
    pub async fn begin_at(
        self,
        pool: &PgPool,
        isolation: Isolation,
    ) -> Result<Enlisted, BeginError> {
        let Self { mut batch, arming } = self;
        batch.publisher.notices.learn(pool);
        // Until its commit, whoever drops it rolls it back.
        batch.notice.is_due();
        let (age, limit) = (batch.age(), batch.publisher.settings.armed_max_age);
        if age > limit {
            return Err(BeginError::TooOld { age, limit });
        }
        match enlist(pool, isolation, &batch).await {
            Ok(transaction) => Ok(Enlisted { transaction, batch, arming }),
            Err(source) => {
                if is_duplicate_key(&source, sql::ENLISTED)
                    && let Some(taken) = who_took(pool, &batch.messages).await
                {
                    return Err(taken);
                }
                Err(BeginError::Database { source, armed: Self { batch, arming } })
            }
        }
    }
}

impl Held {
    /// As [`Armed::begin`]; the commit then has nothing to wait for.
    ///
    /// # Errors
    /// As [`Armed::begin`].
    ///
    /// # Cancel safety
    /// As [`Armed::begin`].
    pub async fn begin(self, pool: &PgPool) -> Result<Enlisted, BeginError> {
        self.begin_at(pool, Isolation::default()).await
    }

    /// As [`Armed::begin_at`]; the commit then has nothing to wait for.
    ///
    /// # Errors
    /// As [`Armed::begin`].
    ///
    /// # Cancel safety
    /// As [`Armed::begin`].
    pub async fn begin_at(
        self,
        pool: &PgPool,
        isolation: Isolation,
    ) -> Result<Enlisted, BeginError> {
        Armed { batch: self.batch, arming: Arming::Held }.begin_at(pool, isolation).await
    }
}

impl Enlisted {
    /// Waits until the broker holds the checks, for at most the arm timeout, and commits. If the
    /// broker does not, rolls back.
    ///
    /// # Errors
    /// When nothing was committed, or when that is unknown: see [`CommitError`].
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction may be committed or not; if it is, its messages
    /// are sent when their checks come due.
    pub async fn commit(mut self) -> Result<Committed, CommitError> {
        if let Err(why) = self.arming.wait(&self.batch.publisher).await {
            roll_back(self.transaction).await;
            return Err(NotArmed { why, messages: self.batch.messages }.into());
        }
        fail::fail_point!("producer.armed", |_| std::process::abort());
        // Dropped from here on, it may be committed.
        self.batch.notice.hold_back();
        match self.transaction.commit().await {
            Ok(()) => {}
            Err(TransactionError::NotCommitted(source)) => {
                self.batch.notice.is_due();
                let armed = Armed { batch: self.batch, arming: Arming::Held };
                return Err(CommitError::NotCommitted { source, armed });
            }
            Err(TransactionError::Unknown(source)) => return Err(CommitError::Unknown { source }),
        }
        fail::fail_point!("producer.committed", |_| std::process::abort());
        Ok(Committed { batch: self.batch })
    }

    /// Rolls back and gives the messages back, still armed: for another try.
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction is rolled back all the same.
    pub async fn rollback(self) -> Armed {
        roll_back(self.transaction).await;
        Armed { batch: self.batch, arming: self.arming }
    }

    /// The ids of its messages.
    pub fn message_ids(&self) -> impl Iterator<Item = MessageId> {
        self.batch.messages.iter().map(Message::id)
    }
}

/// When the connection is lost, the server rolls back by itself.
async fn roll_back(transaction: Transaction) {
    if let Err(error) = transaction.rollback().await {
        tracing::debug!(%error, "rolled back by losing the connection");
    }
}

async fn enlist(
    pool: &PgPool,
    isolation: Isolation,
    batch: &Batch,
) -> Result<Transaction, sqlx::Error> {
    if batch.publisher.settings.store_messages {
        let mut transaction = Transaction::open(pool, sql::set_isolation(isolation)).await?;
        match sql::enlist_messages(&mut transaction, &batch.messages).await {
            Ok(()) => Ok(transaction),
            Err(error) => {
                roll_back(transaction).await;
                Err(error)
            }
        }
    } else {
        Transaction::open(pool, &sql::enlist_ids(isolation, &batch.messages)).await
    }
}

/// Which of these ids is there already, and why; `None` when that cannot be said.
async fn who_took(pool: &PgPool, messages: &[Message]) -> Option<BeginError> {
    for id in messages.iter().map(Message::id) {
        match sql::look_up(&mut *pool.acquire().await.ok()?, id).await.ok()? {
            Row::Absent => {}
            Row::Enlisted => return Some(BeginError::AlreadyCommitted(id)),
            Row::Fenced => return Some(BeginError::Fenced(id)),
        }
    }
    None
}

impl Deref for Enlisted {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for Enlisted {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

impl fmt::Debug for Enlisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enlisted").field("batch", &self.batch).finish_non_exhaustive()
    }
}

//! The transaction that sends messages: their ids are in it from its first statement.

use std::fmt;
use std::ops::{Deref, DerefMut};

use countersign_postgres::{CommitError, Database, Transaction, is_duplicate_key};
use countersign_protocol::MessageId;
use sqlx::{PgConnection, PgPool};

use crate::error::{Error, ErrorKind};
use crate::isolation::Isolation;
use crate::record::{Owner, Record};
use crate::send::armed::{Armed, Held};
use crate::send::batch::Batch;
use crate::send::checks::Checks;
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
    checks: Checks,
}

impl Armed {
    /// Begins the transaction and enlists the messages' ids, in one round trip (two when the
    /// upstream stores its messages).
    ///
    /// # Errors
    /// When the database refuses, the error gives the messages back, still armed. When it is too
    /// late for their ids ([`ErrorKind::TooOld`], [`ErrorKind::Fenced`]), make new messages and arm
    /// those.
    ///
    /// # Cancel safety
    /// When the future is dropped, nothing remains.
    pub async fn begin(self, pool: &PgPool) -> Result<Enlisted, Error> {
        self.begin_at(pool, Isolation::default()).await
    }

    /// [`begin`](Self::begin)s a transaction of this isolation level.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    ///
    /// # Cancel safety
    /// As [`begin`](Self::begin).
    pub async fn begin_at(self, pool: &PgPool, isolation: Isolation) -> Result<Enlisted, Error> {
        let Self { mut batch, checks } = self;
        let Some(owner) = batch.publisher.settings.owner() else {
            let text = "the publisher does not know its database: set ProducerSettings::database to what `prepare` returned";
            return Err(Error::new(ErrorKind::WrongDatabase, text).giving_back(batch.messages));
        };
        // A transaction that is dropped before its commit is rolled back.
        batch.notice.release();
        let (age, limit) = (batch.age(), batch.publisher.settings.armed_max_age);
        if age > limit {
            let text = format!(
                "armed {} ms ago, or the id was made then: at most {} ms are allowed, because the callback service takes a message that it cannot find for rolled back some time later; make a new message and arm it",
                age.as_millis(),
                limit.as_millis()
            );
            return Err(Error::new(ErrorKind::TooOld, text));
        }
        let database = Database::from(pool);
        match enlist(&database, isolation, &owner, &batch).await {
            Ok(transaction) => {
                batch.publisher.notices.learn(&database);
                Ok(Enlisted { transaction, batch, checks })
            }
            Err(source) => {
                if is_duplicate_key(&source, sql::ENLISTED) {
                    return Err(taken(&database, &batch).await.unwrap_or_else(|| {
                        let text = "a message's id is taken, by an earlier commit or by a fence; which of the two is not known, because the database did not say";
                        Error::new(ErrorKind::CommitUnknown, text).with_source(source)
                    }));
                }
                if sql::is_wrong_database(&source) {
                    let text = format!(
                        "the pool leads to another database than the publisher's ({}): of this transaction the callback service would be told that it never committed",
                        owner.database
                    );
                    return Err(Error::new(ErrorKind::WrongDatabase, text)
                        .with_source(source)
                        .giving_back(batch.messages));
                }
                if sql::are_clocks_apart(&source) {
                    let text = "the database's clock and this machine's are more than an hour apart, or the database has no partition for the message's id: set the wrong clock right; nothing was committed";
                    return Err(Error::new(ErrorKind::ClocksDisagree, text)
                        .with_source(source)
                        .giving_back_armed(Self { batch, checks }));
                }
                let error = Error::of_database("the transaction could not be begun", source);
                Err(error.giving_back_armed(Self { batch, checks }))
            }
        }
    }
}

impl Held {
    /// Begins as [`Armed::begin`] does; the commit then does not wait for checks. For another
    /// isolation level: `Armed::from(held).begin_at(…)`.
    ///
    /// # Errors
    /// As [`Armed::begin`].
    ///
    /// # Cancel safety
    /// As [`Armed::begin`].
    pub async fn begin(self, pool: &PgPool) -> Result<Enlisted, Error> {
        Armed::from(self).begin(pool).await
    }
}

impl Enlisted {
    /// Waits until the broker holds the checks, for at most the arm timeout, and commits. If the
    /// broker does not hold them by then, or has no exchange of this name, rolls back.
    ///
    /// # Errors
    /// When nothing was committed: the error gives the messages back, still armed if the database
    /// refused (a deferred constraint, a serialization failure, a statement that had failed
    /// before). With [`ErrorKind::CommitUnknown`], the transaction may be committed.
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction may be committed or not; if it is, its messages
    /// are sent when their checks come due.
    pub async fn commit(self) -> Result<Committed, Error> {
        let Self { transaction, mut batch, mut checks } = self;
        if let Err(why) = checks.wait(&batch.publisher).await {
            roll_back(transaction).await;
            return Err(Error::from(why).giving_back(batch.messages));
        }
        fail::fail_point!("producer.armed", |_| std::process::abort());
        // When the future is dropped from here on, the transaction may be committed.
        batch.notice.withhold();
        match transaction.commit().await {
            Ok(()) => {}
            Err(CommitError::NotCommitted(source)) => {
                batch.notice.release();
                let error = Error::of_database("the transaction was rolled back", source);
                return Err(error.giving_back_armed(Armed { batch, checks }));
            }
            Err(CommitError::Unknown(source)) => {
                let text = "whether the transaction was committed is unknown; if it was, its messages follow when their checks come due";
                return Err(Error::new(ErrorKind::CommitUnknown, text).with_source(source));
            }
        }
        fail::fail_point!("producer.committed", |_| std::process::abort());
        Ok(Committed { batch })
    }

    /// Rolls back and gives the messages back, still armed, for another try.
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction is rolled back all the same.
    pub async fn rollback(self) -> Armed {
        roll_back(self.transaction).await;
        Armed { batch: self.batch, checks: self.checks }
    }

    /// The ids of the messages.
    pub fn message_ids(&self) -> impl Iterator<Item = MessageId> {
        self.batch.message_ids()
    }
}

/// Rolls back. When the connection is lost, the server rolls back by itself.
async fn roll_back(transaction: Transaction) {
    if let Err(error) = transaction.rollback().await {
        tracing::debug!(%error, "rolled back by losing the connection");
    }
}

async fn enlist(
    database: &Database,
    isolation: Isolation,
    owner: &Owner,
    batch: &Batch,
) -> Result<Transaction, sqlx::Error> {
    let tier = batch.publisher.settings.tier;
    if batch.publisher.settings.store_messages {
        let mut transaction = Transaction::open(database, sql::set_isolation(isolation)).await?;
        match sql::enlist_messages(&mut transaction, owner, tier, &batch.messages).await {
            Ok(()) => Ok(transaction),
            Err(error) => {
                roll_back(transaction).await;
                Err(error)
            }
        }
    } else {
        Transaction::open(database, &sql::enlist_ids(isolation, owner, tier, &batch.messages)).await
    }
}

/// Which of these ids is in the table already, and why. `None` when the database does not say.
async fn taken(database: &Database, batch: &Batch) -> Option<Error> {
    for id in batch.message_ids() {
        let (kind, text) = match sql::look_up(database, id).await.ok()? {
            Record::Absent | Record::OfAnother => continue,
            Record::Enlisted => (
                ErrorKind::AlreadyCommitted,
                format!("message {id} was committed by an earlier transaction with the same id"),
            ),
            Record::Fenced => (
                ErrorKind::Fenced,
                format!(
                    "message {id} is fenced: the callback service was told that its transaction never commits; make a new message and arm it"
                ),
            ),
        };
        return Some(Error::new(kind, text).about(id));
    }
    None
}

impl Deref for Enlisted {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.transaction.as_user()
    }
}

impl DerefMut for Enlisted {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.transaction.for_user()
    }
}

impl fmt::Debug for Enlisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enlisted").field("batch", &self.batch).finish_non_exhaustive()
    }
}

//! Telling the callback service which armings were rolled back, so that it need not ask.
//!
//! A notice saves one call and nothing more. So it never waits and never fails a transaction: a
//! notice that cannot leave now is forgotten. A notice must never speak of a transaction that
//! committed. So it names an arming and not an id, it is withheld from the moment a `COMMIT` may be
//! on its way, and it is sent only if the id is not in `countersign.enlisted`: after a `COMMIT`
//! sent by hand, the id is there.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use countersign_amqp::{LinkState, Outgoing, Properties, Publisher};
use countersign_postgres::Database;
use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::rolled_back::{RolledBackHeader, RolledBackMessage};
use countersign_protocol::topology::ROLLED_BACK;
use countersign_protocol::{ArmingId, Headers, MessageId, Name, RolledBack};
use tokio::sync::mpsc;
use tracing::debug;
use uuid::Uuid;

use crate::message::Message;
use crate::sql;

/// How many notices may wait: 240 kB of them. Further ones are forgotten, and each costs the
/// callback service a call.
const WAITING: usize = 10_000;

/// Where notices are handed over. A clone hands over to the same sender.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    waiting: mpsc::Sender<RolledBackMessage>,
    /// The database of the transactions, known once a transaction was begun. Until then no notice
    /// is sent: an upstream that keeps its data elsewhere can have committed a message whose arming
    /// was dropped here.
    database: Arc<OnceLock<Database>>,
}

impl Notices {
    /// Starts to send notices through this publisher, in the background, until the last clone is
    /// dropped.
    pub(crate) fn start(upstream: Name, publisher: Publisher) -> Self {
        let (waiting, mut received) = mpsc::channel(WAITING);
        let database = Arc::new(OnceLock::new());
        let sender = Sender { upstream, publisher, database: Arc::clone(&database) };
        tokio::spawn(async move {
            let mut some = Vec::new();
            // Notices that arrive while a message is on its way leave in the next.
            while received.recv_many(&mut some, MAX_ENTRIES).await > 0 {
                if let Err(why) = sender.send(std::mem::take(&mut some)).await {
                    debug!(why, "notices not sent: the callback service will ask instead");
                }
            }
        });
        Self { waiting, database }
    }

    /// Learns the database that transactions are begun in.
    pub(crate) fn learn(&self, database: &Database) {
        if self.database.get().is_none() {
            // Two callers at once say the same.
            let _ = self.database.set(database.clone());
        }
    }

    /// A notice for messages that are about to be armed.
    pub(crate) fn notice(&self, messages: &[Message]) -> Notice {
        // Half of a random UUID is random enough to tell the armings of one message apart.
        let (_, bits) = Uuid::new_v4().as_u64_pair();
        Notice {
            arming: ArmingId::from_bits(bits),
            ids: messages.iter().map(Message::id).collect(),
            is_withheld: false,
            notices: self.clone(),
        }
    }
}

/// Tells, when dropped, that an arming is never committed, unless the notice is withheld.
pub(crate) struct Notice {
    arming: ArmingId,
    ids: Vec<MessageId>,
    is_withheld: bool,
    notices: Notices,
}

impl Notice {
    pub(crate) fn arming(&self) -> ArmingId {
        self.arming
    }

    /// Withholds the notice: from now on the arming may be committed.
    pub(crate) fn withhold(&mut self) {
        self.is_withheld = true;
    }

    /// Releases the notice: the arming surely is not committed, unless it is begun again.
    pub(crate) fn release(&mut self) {
        self.is_withheld = false;
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        if self.is_withheld {
            return;
        }
        for &id in &self.ids {
            // The notice is forgotten when too many wait, or the sender has ended.
            let rolled_back = RolledBackMessage { id, arming: self.arming };
            let _ = self.notices.waiting.try_send(rolled_back);
        }
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notice").field("arming", &self.arming).finish_non_exhaustive()
    }
}

struct Sender {
    upstream: Name,
    publisher: Publisher,
    database: Arc<OnceLock<Database>>,
}

impl Sender {
    /// Sends notices. The error says why they are forgotten instead.
    async fn send(&self, rolled_back: Vec<RolledBackMessage>) -> Result<(), String> {
        let Some(database) = self.database.get() else { return Ok(()) };
        if *self.publisher.link().borrow() != LinkState::Up {
            return Err("the broker is away".to_owned());
        }
        let ids = rolled_back.iter().map(|message| message.id);
        let taken = sql::taken(database, ids).await.map_err(|error| error.to_string())?;
        let rolled_back = never_committed(rolled_back, &taken);
        if rolled_back.is_empty() {
            return Ok(());
        }
        let header = RolledBackHeader { upstream: self.upstream.clone() };
        let notice = RolledBack::new(header, rolled_back);
        let message = Outgoing {
            exchange: ROLLED_BACK.to_owned(),
            key: String::new(),
            properties: Properties {
                message_id: None,
                kind: Some("countersign.rolled_back".to_owned()),
                content_type: Some("application/json".to_owned()),
                app_id: Some(self.upstream.to_string()),
                timestamp: None,
                headers: Headers::new(),
                ..Properties::default()
            },
            body: notice.encode().into(),
        };
        let pending = self.publisher.publish(message).map_err(|why| why.to_string())?;
        // The wait only makes notices leave one message at a time; the outcome does not matter.
        let _ = pending.await;
        Ok(())
    }
}

/// Leaves out ids that are in the table, committed or fenced: about these there is nothing to say.
fn never_committed(
    mut rolled_back: Vec<RolledBackMessage>,
    taken: &BTreeSet<MessageId>,
) -> Vec<RolledBackMessage> {
    rolled_back.retain(|message| !taken.contains(&message.id));
    rolled_back
}

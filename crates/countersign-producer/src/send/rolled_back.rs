//! Telling the callback service what was rolled back, so that it need not ask.
//!
//! A notice is worth a call and nothing more, so it never waits and never fails a transaction: a
//! notice that cannot leave now is forgotten. It must never speak of a transaction that committed. So
//! it names an arming and not an id, is withheld from the moment a `COMMIT` may be on its way, and is
//! sent only if the id is not in `countersign.enlisted`: after a `COMMIT` sent by hand, it is.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use countersign_amqp::{LinkState, Outgoing, Properties, Publisher};
use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::rolled_back::{RolledBackHeader, RolledBackMessage};
use countersign_protocol::topology::ROLLED_BACK;
use countersign_protocol::{ArmingId, Headers, MessageId, Name, RolledBack};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tracing::debug;
use uuid::Uuid;

use crate::message::Message;
use crate::sql;

/// So many notices may wait, 240 kB of them; more are forgotten, and cost a call each.
const WAITING: usize = 10_000;

/// Where notices are handed over. A clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    waiting: mpsc::Sender<RolledBackMessage>,
    /// The database of the transactions. Unknown, and nothing is sent, until one was begun: an upstream
    /// that keeps its data elsewhere can have committed what was dropped here.
    pool: Arc<OnceLock<PgPool>>,
}

impl Notices {
    /// Sends them through this publisher, in the background, until the last clone is dropped.
    pub(crate) fn start(upstream: Name, publisher: Publisher) -> Self {
        let (waiting, mut received) = mpsc::channel(WAITING);
        let pool = Arc::new(OnceLock::new());
        let sender = Sender { upstream, publisher, pool: Arc::clone(&pool) };
        tokio::spawn(async move {
            let mut some = Vec::new();
            // What arrives while a message is on its way leaves in the next.
            while received.recv_many(&mut some, MAX_ENTRIES).await > 0 {
                if let Err(why) = sender.send(std::mem::take(&mut some)).await {
                    debug!(why, "not told what was rolled back: it will be asked about");
                }
            }
        });
        Self { waiting, pool }
    }

    /// Transactions are begun in this database.
    pub(crate) fn learn(&self, pool: &PgPool) {
        if self.pool.get().is_none() {
            // Two at once say the same.
            let _ = self.pool.set(pool.clone());
        }
    }

    /// A notice for what is about to be armed.
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

/// Says, when dropped, that an arming is never committed; unless it is withheld.
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

    /// From now on the arming may be committed.
    pub(crate) fn withhold(&mut self) {
        self.is_withheld = true;
    }

    /// The arming surely is not committed, unless it is begun again.
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
            // When too many wait, or the sender has ended, it is forgotten.
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
    pool: Arc<OnceLock<PgPool>>,
}

impl Sender {
    /// The error says why they are forgotten.
    async fn send(&self, rolled_back: Vec<RolledBackMessage>) -> Result<(), String> {
        let Some(pool) = self.pool.get() else { return Ok(()) };
        if *self.publisher.link().borrow() != LinkState::Up {
            return Err("the broker is away".to_owned());
        }
        let ids = rolled_back.iter().map(|message| message.id);
        let taken = sql::taken(pool, ids).await.map_err(|error| error.to_string())?;
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
            },
            body: notice.encode().into(),
        };
        let pending = self.publisher.publish(message).map_err(|why| why.to_string())?;
        // Only to send one at a time: whether it arrives makes no difference here.
        let _ = pending.await;
        Ok(())
    }
}

/// What is in the table committed, or is fenced: there is nothing to be said about it.
fn never_committed(
    mut rolled_back: Vec<RolledBackMessage>,
    taken: &BTreeSet<MessageId>,
) -> Vec<RolledBackMessage> {
    rolled_back.retain(|message| !taken.contains(&message.id));
    rolled_back
}

//! Quarantined messages in hand.
//!
//! The whole quarantine is read, and held un-acked until the command ends. However it ends, the
//! broker returns all that was not taken to the queue, in its order.

use anyhow::Context as _;
use countersign_amqp::{Browser, Connection};
use countersign_protocol::topology;

use super::filter::Filter;
use super::item::{Body, Item, Shown};
use crate::connect::broker::Broker;
use crate::terminal::ask_person;
use crate::terminal::clock::now_ms;

/// The messages that match, and the connection that holds them.
pub(crate) struct Held {
    connection: Connection,
    pub(crate) browser: Browser,
    pub(crate) items: Vec<Item>,
    /// How many match and are not in `items`.
    pub(crate) beyond: u64,
    /// How many lie in quarantine.
    pub(crate) seen: u64,
}

/// Bodies stay in memory while a person decides. Past this many bytes, another run does the rest.
const MOST_BYTES: usize = 256 * 1024 * 1024;

impl Held {
    /// Reads all of the quarantine, and holds at most `most` of the messages that match.
    ///
    /// # Errors
    /// When the broker does not answer, or has no quarantine.
    pub(crate) async fn gather(
        broker: &Broker,
        filter: &Filter,
        most: usize,
        body: &Body,
    ) -> anyhow::Result<Self> {
        let now = now_ms();
        let connection = broker.connect("countersign quarantine").await?;
        let queue = topology::QUARANTINE;
        let browser = Browser::open(&connection, queue).await.with_context(|| {
            format!("{queue} cannot be read; the callback service makes it: has it ever been connected to this vhost?")
        })?;
        if browser.other_readers() > 0 {
            ask_person::tell(&format!(
                "other readers of {queue}: {}; the messages that they hold are not seen here",
                browser.other_readers()
            ));
        }
        let mut held = Self { connection, browser, items: Vec::new(), beyond: 0, seen: 0 };
        let mut bytes = 0;
        while let Some(browsed) = held.browser.next().await? {
            held.seen += 1;
            let item = Item::read(browsed, body);
            if !filter.matches(&item.shown, now) {
                continue;
            }
            bytes += item.shown.bytes;
            // One message fits always: a run that does nothing would be repeated for ever.
            if held.items.len() < most && (bytes <= MOST_BYTES || held.items.is_empty()) {
                held.items.push(item);
            } else {
                held.beyond += 1;
            }
        }
        Ok(held)
    }

    /// The messages as they are shown.
    pub(crate) fn shown(&self) -> Vec<&Shown> {
        self.items.iter().map(|item| &item.shown).collect()
    }

    /// How many match.
    pub(crate) fn matching(&self) -> u64 {
        u64::try_from(self.items.len()).unwrap_or(u64::MAX).saturating_add(self.beyond)
    }

    /// Returns the messages that were not taken, and disconnects.
    ///
    /// # Errors
    /// When the connection is lost: the broker may not have heard of messages that were taken.
    pub(crate) async fn put_back(self) -> anyhow::Result<()> {
        self.browser.close().await?;
        self.connection.close().await;
        Ok(())
    }
}

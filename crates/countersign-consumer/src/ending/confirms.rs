//! Confirms: the consumer tells the callback service what became of messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use countersign_amqp::{
    Batcher, BatcherSettings, NotTaken, OnFailure, Outgoing, Properties, PublishOutcome, Publisher,
};
use countersign_protocol::confirm::{ConfirmHeader, ConfirmedMessage};
use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::{Confirm, Name, topology};
use countersign_retry::Pulse;
use tracing::warn;

use crate::ending::blocked_broker::BlockedBroker;
use crate::settings::ConsumerSettings;
use crate::task_retry::{Shared, TaskRetry};

/// Sends confirms, many in one message.
#[derive(Clone, Debug)]
pub(crate) struct Confirms {
    batcher: Batcher<ConfirmedMessage>,
    blocked: BlockedBroker,
    trouble: Arc<Shared>,
}

/// Whether the delivery may be acked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The broker has the confirm, or has blocked for so long that the ack must not wait for it.
    MayAck,
    /// The broker may not have the confirm: the message has to be delivered again.
    GivenUp,
}

impl Confirms {
    pub(crate) fn start(
        publisher: Publisher,
        settings: &ConsumerSettings,
        blocked: BlockedBroker,
        pulse: &Pulse,
    ) -> Self {
        let batching = BatcherSettings {
            max_entries: MAX_ENTRIES,
            max_waiting: settings.max_unconfirmed,
            on_failure: OnFailure::KeepTrying,
        };
        let (consumer, shards) = (settings.name.clone(), settings.confirm_shards);
        let next_shard = AtomicU16::new(0);
        let batcher = Batcher::start(publisher, batching, move |entries| {
            let shard = next_shard.fetch_add(1, Ordering::Relaxed) % shards;
            pack(consumer.clone(), shard, entries)
        });
        Self { batcher, blocked, trouble: Arc::new(Shared::new(pulse)) }
    }

    /// Confirms a message: waits until the broker has the confirm, or has blocked for too long.
    ///
    /// # Cancel safety
    /// The batcher sends a confirm that it has taken all the same.
    pub(crate) async fn confirm(&self, entry: ConfirmedMessage) -> Sent {
        let mut retry = TaskRetry::new(&self.trouble);
        loop {
            match self.batcher.submit(entry.clone()) {
                Ok(pending) => {
                    return tokio::select! {
                        biased;
                        outcome = pending => match outcome {
                            PublishOutcome::Routed => Sent::MayAck,
                            _ => Sent::GivenUp,
                        },
                        () = self.blocked.too_long() => Sent::MayAck,
                    };
                }
                Err(NotTaken::Closed) => return Sent::GivenUp,
                Err(why) if self.blocked.is_too_long() => {
                    if self.trouble.limit.admits(&why.to_string()) {
                        warn!(message_id = %entry.id, %why, "confirms are left out: their checks will ask for the messages again");
                    }
                    return Sent::MayAck;
                }
                Err(why) => {
                    if retry.is_news(&why) {
                        warn!(message_id = %entry.id, %why, "a confirm has to wait");
                    }
                    tokio::select! {
                        () = retry.pause() => {}
                        () = self.blocked.too_long() => {}
                    }
                }
            }
        }
    }

    /// Sends the confirms that were handed over, within the deadline.
    pub(crate) async fn close(&self, deadline: Duration) {
        self.batcher.close(deadline).await;
    }
}

fn pack(consumer: Name, shard: u16, entries: &[ConfirmedMessage]) -> Outgoing {
    let app_id = Some(consumer.to_string());
    let confirm = Confirm::new(ConfirmHeader { consumer }, entries.to_vec());
    Outgoing {
        exchange: topology::CONFIRM.to_owned(),
        key: shard.to_string(),
        properties: Properties {
            content_type: Some("application/json".to_owned()),
            app_id,
            ..Properties::default()
        },
        body: confirm.encode().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_protocol::envelope::{MAX_BODY_BYTES, MAX_REASON_CHARS};
    use countersign_protocol::{Attempt, MessageId, Outcome, UnixMillis};

    fn largest(outcome: Outcome) -> ConfirmedMessage {
        ConfirmedMessage {
            upstream: Some("u".repeat(64).parse().unwrap()),
            queue: Some("\"".repeat(220)),
            attempt: Attempt::from_number(u32::MAX),
            published_at: Some(UnixMillis::MAX_IN_ID),
            at: Some(UnixMillis::MAX_IN_ID),
            ..ConfirmedMessage::new(MessageId::generate(), outcome)
        }
    }

    #[test]
    fn the_longest_entry_there_can_be_is_not_too_large_to_be_sent() {
        let name: Name = "c".repeat(64).parse().unwrap();
        // No character that a clean reason keeps becomes longer in JSON.
        let reason = "\u{1F980}".repeat(MAX_REASON_CHARS);
        let retrying = Outcome::Retrying { until: UnixMillis::MAX_IN_ID, reason };
        let bytes = pack(name, u16::MAX, &[largest(retrying)]).body.len();
        assert!(bytes <= MAX_BODY_BYTES, "{bytes} bytes");
    }

    #[test]
    fn a_full_message_of_processed_entries_need_not_be_split() {
        let name: Name = "c".repeat(64).parse().unwrap();
        let entries = vec![largest(Outcome::Processed); MAX_ENTRIES];
        let bytes = pack(name, u16::MAX, &entries).body.len();
        assert!(bytes <= MAX_BODY_BYTES, "{bytes} bytes");
    }
}

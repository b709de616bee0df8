//! Publishing quarantined messages again to where they came from.

use std::time::Duration;

use countersign_amqp::{
    Browser, Outgoing, Pending, Properties, PublishOutcome, Publisher, PublisherSettings,
};
use countersign_protocol::Headers;
use indicatif::{ProgressBar, ProgressStyle};

use super::item::Item;
use crate::connect::broker::Broker;

/// The result of a replay.
pub(crate) struct Replayed {
    pub(crate) done: u64,
    /// Id and reason of each message that stays in quarantine.
    pub(crate) left: Vec<(String, String)>,
}

/// Messages under way at once. A replay that is killed leaves at most so many in both places.
const AT_ONCE: usize = 100;
/// All messages are answered by then, so closing has nothing to wait for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes each message, and takes it out of quarantine when the broker has confirmed it.
///
/// # Errors
/// When a connection is lost. The messages that were not taken out stay.
pub(crate) async fn all(
    broker: &Broker,
    browser: &mut Browser,
    items: &[Item],
) -> anyhow::Result<Replayed> {
    let settings = PublisherSettings { channels: 1, ..PublisherSettings::default() };
    // A connection for publishing alone: the broker blocks it during an alarm, and acks have to go on.
    let connection = broker.connect("countersign replay").await?;
    let publisher = Publisher::start(&connection, settings);
    let bar = bar(items.len());
    let mut replayed = Replayed { done: 0, left: Vec::new() };
    for items in items.chunks(AT_ONCE) {
        let sent: Vec<_> = items.iter().map(|item| (item, publish(&publisher, item))).collect();
        for (item, sent) in sent {
            let refused = match sent {
                Ok(pending) => refused(pending.await),
                Err(why) => Some(why),
            };
            match refused {
                None => {
                    browser.take(item.tag).await?;
                    replayed.done += 1;
                }
                Some(why) => replayed.left.push((item.shown.message_id.clone(), why)),
            }
            bar.inc(1);
        }
    }
    publisher.close(CLOSE_TIMEOUT).await;
    connection.close().await;
    bar.finish_and_clear();
    Ok(replayed)
}

fn publish(publisher: &Publisher, item: &Item) -> Result<Pending, String> {
    let Some(to) = &item.shown.replay_to else {
        return Err(format!(
            "it came from {:?}, and a replay knows the way back to the confirm queues and the due checks alone",
            item.shown.source
        ));
    };
    let id = &item.shown.message_id;
    let app_id = &item.shown.app_id;
    let message = Outgoing {
        exchange: to.exchange.clone(),
        key: to.routing_key.clone(),
        properties: Properties {
            message_id: (!id.is_empty()).then(|| id.clone()),
            content_type: item.content_type.clone(),
            app_id: (!app_id.is_empty()).then(|| app_id.clone()),
            headers: Headers::new(),
            ..Properties::default()
        },
        body: item.body.clone(),
    };
    publisher.publish(message).map_err(|not_taken| not_taken.to_string())
}

fn refused(outcome: PublishOutcome) -> Option<String> {
    match outcome {
        PublishOutcome::Routed => None,
        PublishOutcome::Unroutable { why } => Some(format!("no queue is bound for it: {why}")),
        PublishOutcome::Refused => Some("the queue that it came from is full".to_owned()),
        PublishOutcome::Unknown { why } => Some(format!("it may have been published: {why}")),
    }
}

/// Drawn on standard error, and only where that is a terminal.
fn bar(items: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len}")
        .expect("the template is right, and the same every time");
    ProgressBar::new(u64::try_from(items).unwrap_or(u64::MAX))
        .with_style(style)
        .with_message("replayed")
}

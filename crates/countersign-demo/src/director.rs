//! The director does the harm.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use countersign_amqp::Delivery;
use countersign_protocol::topology;
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::databases::{Databases, Progress};
use crate::flow::Flow;
use crate::queues::Queues;
use crate::schedule::{Harm, Planned};
use crate::service::Service;
use crate::stage::Stage;
use crate::story::Story;

/// The queue logistics consumes.
const ORDERS_QUEUE: &str = "logistics.orders";
const QUEUE_WITHIN: Duration = Duration::from_secs(20);
/// A queue that holds more is not purged: the director reads messages before it destroys them, to
/// count them.
const MANAGEABLE: u64 = 500;

/// The messages and confirms that the harm destroyed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Destroyed {
    /// Messages purged before they had taken effect.
    pub(crate) messages: Vec<Uuid>,
    /// Messages whose confirm was purged before it was recorded.
    pub(crate) confirms: Vec<Uuid>,
}

/// Does the harm at its moments.
#[derive(Debug)]
pub(crate) struct Director<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) flow: &'a Flow,
    pub(crate) queues: &'a Queues,
    pub(crate) databases: &'a Databases,
    pub(crate) story: &'a Story,
}

impl Director<'_> {
    /// Lets `orders` orders be placed, and does all planned harm among them.
    pub(crate) async fn run(&self, planned: &[Planned], orders: u64) -> Result<Destroyed> {
        let mut destroyed = Destroyed::default();
        for (number, harm) in planned.iter().enumerate() {
            self.flow.open(harm.at);
            self.flow.reached(harm.at).await;
            // While a harm lasts, orders go on, but not into the next harm.
            let limit = planned.get(number + 1).map_or(orders, |next| next.at);
            match harm.harm {
                Harm::KillLogistics => self.kill_logistics(harm, limit).await?,
                Harm::KillOrders => self.kill_orders(harm, limit).await?,
                Harm::DestroyMessages => destroyed.messages = self.destroy_messages(harm).await?,
                Harm::DestroyConfirms => destroyed.confirms = self.destroy_confirms(harm).await?,
            }
        }
        self.flow.open(orders);
        Ok(destroyed)
    }

    async fn kill_logistics(&self, planned: &Planned, limit: u64) -> Result<()> {
        let logistics = &self.stage.logistics;
        self.kill_in_a_rush(logistics, planned, limit).await;
        let down = Instant::now();
        sleep_until(down + planned.down).await;
        let Progress { placed, shipped, .. } = self.databases.progress().await?;
        logistics.start().await?;
        self.story.harm(
            "SIGKILL logistics",
            &format!(
                " in the midst of a rush; back after {:.1} s, {} orders wait to be shipped",
                down.elapsed().as_secs_f64(),
                placed.saturating_sub(shipped)
            ),
        );
        Ok(())
    }

    async fn kill_orders(&self, planned: &Planned, limit: u64) -> Result<()> {
        let orders = &self.stage.orders;
        let before = self.flow.refused();
        self.kill_in_a_rush(orders, planned, limit).await;
        let down = Instant::now();
        sleep_until(down + planned.down).await;
        orders.start().await?;
        let answers = match self.flow.refused() - before {
            0 => "every caller had its answer".to_owned(),
            callers => format!("{callers} callers without an answer order anew"),
        };
        self.story.harm(
            "SIGKILL orders",
            &format!(
                " in the midst of a rush; back after {:.1} s, {answers}",
                down.elapsed().as_secs_f64()
            ),
        );
        Ok(())
    }

    async fn destroy_messages(&self, planned: &Planned) -> Result<Vec<Uuid>> {
        self.wait_until_manageable().await?;
        let logistics = &self.stage.logistics;
        logistics.kill();
        let until = planned.at + planned.orders;
        self.flow.open(until);
        self.flow.reached(until).await;
        let waiting = self
            .queues
            .wait_for(ORDERS_QUEUE, "messages that pile up", QUEUE_WITHIN, |queue| {
                queue.ready >= planned.orders && queue.unacked == 0
            })
            .await?;
        let messages = self.queues.read(ORDERS_QUEUE, usize::try_from(waiting.ready)?).await?;
        let ids: Vec<Uuid> = messages.iter().map(message_id).collect::<Result<_>>()?;
        // Some messages were processed and only not acked yet: destroying those loses nothing.
        let ids = self.databases.unprocessed(&ids).await?;
        self.queues.purge(ORDERS_QUEUE, messages.len()).await?;
        self.story.harm(
            &format!("SIGKILL logistics, and destroy {} messages", ids.len()),
            &format!(" that waited for it in {ORDERS_QUEUE}"),
        );
        sleep(planned.down).await;
        logistics.start().await?;
        Ok(ids)
    }

    async fn destroy_confirms(&self, planned: &Planned) -> Result<Vec<Uuid>> {
        self.wait_until_manageable().await?;
        let (callback, queue) = (&self.stage.callback, topology::confirm_queue(0));
        callback.kill();
        let until = planned.at + planned.orders;
        self.flow.open(until);
        self.flow.reached(until).await;
        // All of these messages are processed, and every acked one is confirmed.
        self.queues
            .wait_for(ORDERS_QUEUE, "nothing left", QUEUE_WITHIN, |queue| queue.total() == 0)
            .await?;
        let waiting = self
            .queues
            .wait_for(&queue, "confirms that pile up", QUEUE_WITHIN, |queue| {
                queue.ready > 0 && queue.unacked == 0
            })
            .await?;
        let confirms = self.queues.read(&queue, usize::try_from(waiting.ready)?).await?;
        // The callback service's markers come through the same queue, with a type.
        let ids = confirms.iter().filter(|message| message.properties.kind.is_none());
        let ids: Vec<Vec<Uuid>> = ids.map(confirmed_ids).collect::<Result<_>>()?;
        // Some confirms were recorded and only not acked yet: destroying those loses nothing.
        let ids = self.databases.unrecorded(&ids.concat()).await?;
        self.queues.purge(&queue, confirms.len()).await?;
        self.story.harm(
            &format!("SIGKILL callback, and destroy {} confirms", ids.len()),
            &format!(" that waited for it in {queue}"),
        );
        sleep(planned.down).await;
        callback.start().await?;
        Ok(ids)
    }

    /// Lets the harm's orders through as fast as possible and kills a service in their midst. The
    /// orders after them come at their rate, whether or not the service is back.
    async fn kill_in_a_rush(&self, service: &Service, planned: &Planned, limit: u64) {
        self.flow.rush(planned.at + planned.orders);
        self.flow.reached(planned.at + planned.kill_after).await;
        service.kill();
        self.flow.open(limit);
    }

    async fn wait_until_manageable(&self) -> Result<()> {
        self.queues
            .wait_for(ORDERS_QUEUE, "a manageable number", 3 * QUEUE_WITHIN, |queue| {
                queue.total() <= MANAGEABLE
            })
            .await
            .map(drop)
    }
}

fn message_id(message: &Delivery) -> Result<Uuid> {
    let id = message.properties.message_id.as_deref().context("a message without an id")?;
    id.parse().with_context(|| format!("{id} is not a message's id"))
}

/// The demo reads leniently, as any program can that knows only the wire contract.
fn confirmed_ids(confirm: &Delivery) -> Result<Vec<Uuid>> {
    #[derive(Deserialize)]
    struct Envelope {
        confirms: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: Uuid,
        outcome: String,
    }
    let envelope: Envelope =
        serde_json::from_slice(&confirm.body).context("a confirm that cannot be read")?;
    if envelope.confirms.is_empty() {
        bail!("a confirm of nothing");
    }
    let processed = envelope.confirms.into_iter().filter(|entry| entry.outcome == "processed");
    Ok(processed.map(|entry| entry.id).collect())
}

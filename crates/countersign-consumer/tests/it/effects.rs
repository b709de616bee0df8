//! A handler that does what the message says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_consumer::{BatchHandler, Delivery, Failure, Handler};
use countersign_protocol::MessageId;
use sqlx::PgConnection;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::world::SOON;

/// A handler whose every run inserts a row into `effects`, which has no unique key: a doubled effect
/// shows. Then it does what the message's body says.
#[derive(Clone, Default)]
pub(crate) struct Effects(Arc<State>);

struct State {
    runs: watch::Sender<Vec<Run>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
    gate: Semaphore,
}

impl Default for State {
    fn default() -> Self {
        Self {
            runs: watch::Sender::default(),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            gate: Semaphore::new(0),
        }
    }
}

/// A run of the handler.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) ids: Vec<MessageId>,
    pub(crate) failures: u32,
    pub(crate) exchange: String,
    pub(crate) key: String,
    /// What few messages have, and two headers of other clients.
    pub(crate) properties: Vec<String>,
    pub(crate) at: Instant,
}

impl Effects {
    /// Lets so many handlers that wait go on.
    pub(crate) fn release(&self, handlers: usize) {
        self.0.gate.add_permits(handlers);
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.0.runs.borrow().clone()
    }

    pub(crate) fn runs_of(&self, id: MessageId) -> Vec<Run> {
        self.runs().into_iter().filter(|run| run.ids.contains(&id)).collect()
    }

    /// How many runs there were with so many messages in them, by that number.
    pub(crate) fn sizes(&self) -> BTreeMap<usize, usize> {
        let mut sizes = BTreeMap::new();
        for run in self.runs() {
            *sizes.entry(run.ids.len()).or_default() += 1;
        }
        sizes
    }

    /// Waits until the handler has been entered so often.
    pub(crate) async fn entered(&self, runs: usize) {
        let mut seen = self.0.runs.subscribe();
        let entered = tokio::time::timeout(SOON, seen.wait_for(|seen| seen.len() >= runs));
        if entered.await.is_err() {
            panic!("waited {SOON:?} for {runs} runs; seen: {:?}", self.runs());
        }
    }

    pub(crate) fn most_running(&self) -> usize {
        self.0.most_running.load(Ordering::SeqCst)
    }

    async fn run(&self, tx: &mut PgConnection, deliveries: &[Delivery]) -> Result<(), Failure> {
        let first = &deliveries[0];
        let run = Run {
            ids: deliveries.iter().map(Delivery::id).collect(),
            failures: first.failures(),
            exchange: first.exchange().to_owned(),
            key: first.key().to_owned(),
            properties: properties(first),
            at: Instant::now(),
        };
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        let _done = OnDrop(&self.0.running);
        self.0.most_running.fetch_max(running, Ordering::SeqCst);
        self.0.runs.send_modify(|runs| runs.push(run));
        for delivery in deliveries {
            sqlx::query("INSERT INTO effects (message_id) VALUES ($1)")
                .bind(delivery.id().uuid())
                .execute(&mut *tx)
                .await?;
        }
        for delivery in deliveries {
            self.obey(tx, delivery).await?;
        }
        Ok(())
    }

    async fn obey(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), Failure> {
        match &**delivery.body() {
            b"retry" => return Err(Failure::retry("told to retry")),
            b"retry once" if delivery.failures() == 0 => {
                return Err(Failure::retry("told to retry once"));
            }
            b"reject" => return Err(Failure::reject("told to reject")),
            b"panic" => panic!("told to panic"),
            b"wait" => {
                self.0.gate.acquire().await.expect("the gate is never closed").forget();
            }
            b"wait and ask" => {
                self.0.gate.acquire().await.expect("the gate is never closed").forget();
                sqlx::query("SELECT 1").execute(&mut *tx).await?;
            }
            b"hang" => std::future::pending().await,
            b"sleep" => {
                sqlx::query("SELECT pg_sleep(0.2)").execute(&mut *tx).await?;
            }
            b"swallow" => {
                let swallowed = sqlx::query("SELECT 1 / 0").execute(&mut *tx).await;
                assert!(swallowed.is_err());
            }
            b"commit" => {
                sqlx::raw_sql("COMMIT").execute(&mut *tx).await?;
            }
            b"cut" if self.runs_of(delivery.id()).len() == 1 => {
                sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())")
                    .execute(&mut *tx)
                    .await?;
            }
            b"json" => {
                delivery.json::<BTreeMap<String, String>>()?;
            }
            _ => {}
        }
        Ok(())
    }
}

struct OnDrop<'a>(&'a AtomicUsize);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Effects {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), Failure> {
        self.run(tx, std::slice::from_ref(delivery)).await
    }
}

impl BatchHandler for Effects {
    async fn handle_batch(
        &self,
        tx: &mut PgConnection,
        deliveries: &[Delivery],
    ) -> Result<(), Failure> {
        self.run(tx, deliveries).await
    }
}

/// Longer than anything here takes.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

fn properties(delivery: &Delivery) -> Vec<String> {
    let priority = delivery.priority().map(|priority| priority.to_string());
    let texts = [
        delivery.correlation_id(),
        delivery.reply_to(),
        delivery.content_encoding(),
        priority.as_deref(),
        delivery.expiration(),
        delivery.user_id(),
        delivery.headers().text("TraceId"),
        delivery.headers().text("X-Request-Id"),
    ];
    texts.map(|text| text.unwrap_or_default().to_owned()).to_vec()
}

//! Whether the exchanges that messages go to are there: asked before the commit, so that nothing is
//! committed whose message the broker would refuse.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use countersign_amqp::Connection;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::debug;

/// How long an exchange that is not there is not asked for again. Each question costs the
/// connection one of its 2,000 channels, so the time doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How many exchanges are remembered. Names made from data must not fill the memory.
const MAX_REMEMBERED: usize = 1_000;

/// What is known about exchanges. An exchange that was there once is not asked for again: if it is
/// deleted, the first message to it is refused, and the publisher then refuses the next at once.
#[derive(Debug)]
pub(crate) struct Destinations {
    connection: Connection,
    /// The exchanges that the connection declares: they are there whenever it is up.
    declared: BTreeSet<String>,
    known: Mutex<HashMap<String, Known>>,
    runtime: Handle,
}

#[derive(Debug)]
struct Known {
    answer: watch::Receiver<Option<Answer>>,
    asked_at: Instant,
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Exists,
    Missing,
    /// The broker did not say. That refuses nothing.
    Unknown,
}

/// A question about an exchange that is on its way.
#[derive(Debug)]
pub(crate) struct Lookup {
    exchange: String,
    answer: watch::Receiver<Option<Answer>>,
}

/// The exchange of a message is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no exchange {0:?}: is the name right? Declare it (ProducerSettings::with_exchange), or start the consumer that does"
)]
pub(crate) struct NoExchange(String);

impl Destinations {
    /// Call this within a Tokio runtime.
    pub(crate) fn new(connection: Connection, declared: BTreeSet<String>) -> Self {
        let (known, runtime) = (Mutex::default(), Handle::current());
        Self { connection, declared, known, runtime }
    }

    /// Asks for an exchange, unless the answer is known. `None` if it is there, or the broker does
    /// not say.
    pub(crate) fn look_up(&self, exchange: &str) -> Result<Option<Lookup>, NoExchange> {
        if exchange.is_empty() || self.declared.contains(exchange) {
            return Ok(None);
        }
        let now = Instant::now();
        let mut known = self.lock();
        let pause = match known.get(exchange) {
            None => FIRST_PAUSE,
            Some(last) => {
                let answer = *last.answer.borrow();
                let is_fresh = now.saturating_duration_since(last.asked_at) < last.pause;
                match answer {
                    Some(Answer::Exists) => return Ok(None),
                    None => return Ok(Some(last.lookup(exchange))),
                    Some(Answer::Unknown) if is_fresh => return Ok(None),
                    Some(Answer::Missing) if is_fresh => {
                        return Err(NoExchange(exchange.to_owned()));
                    }
                    Some(Answer::Unknown | Answer::Missing) => (last.pause * 2).min(LONGEST_PAUSE),
                }
            }
        };
        if known.len() >= MAX_REMEMBERED && !known.contains_key(exchange) {
            known.clear();
        }
        let asked = Known { answer: self.ask(exchange), asked_at: now, pause };
        let lookup = asked.lookup(exchange);
        known.insert(exchange.to_owned(), asked);
        Ok(Some(lookup))
    }

    fn ask(&self, exchange: &str) -> watch::Receiver<Option<Answer>> {
        let (said, answer) = watch::channel(None);
        let (connection, exchange) = (self.connection.clone(), exchange.to_owned());
        self.runtime.spawn(async move {
            let answer = match connection.exchange_exists(&exchange).await {
                Ok(true) => Answer::Exists,
                Ok(false) => Answer::Missing,
                Err(error) => {
                    debug!(%error, "messages to this exchange are taken all the same");
                    Answer::Unknown
                }
            };
            said.send_replace(Some(answer));
        });
        answer
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn lookup(&self, exchange: &str) -> Lookup {
        Lookup { exchange: exchange.to_owned(), answer: self.answer.clone() }
    }
}

impl Lookup {
    /// Waits for the answer.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time, and another one then waits for the same answer.
    pub(crate) async fn answer(&mut self) -> Result<(), NoExchange> {
        // An error means that the runtime ends, and with it every question.
        let Ok(answer) = self.answer.wait_for(Option::is_some).await else { return Ok(()) };
        if *answer == Some(Answer::Missing) {
            return Err(NoExchange(self.exchange.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lookup_that_fails_refuses_nothing() {
        let address = "amqp://127.0.0.1:1".parse().unwrap();
        let connection =
            Connection::start(address, "none", countersign_protocol::Topology::default());
        let destinations = Destinations::new(connection, BTreeSet::from(["declared".to_owned()]));
        assert!(destinations.look_up("").unwrap().is_none());
        assert!(destinations.look_up("declared").unwrap().is_none());
        let mut lookup = destinations.look_up("other").unwrap().expect("nothing is known");
        assert_eq!(lookup.answer().await, Ok(()), "the connection is away");
    }
}

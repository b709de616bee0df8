//! Arming: the check goes to the broker before anything else happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_protocol::check::CheckedMessage;
use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::{UnixMillis, Window};

use crate::clock;
use crate::error::{Error, ErrorKind};
use crate::message::Message;
use crate::send::armed::{Armed, Held};
use crate::send::batch::Batch;
use crate::send::checks::Checks;
use crate::send::committed::Committed;
use crate::send::publisher::Publisher;

/// Two machines that keep time by NTP differ by less than a second; an id further ahead than this
/// comes from a broken clock, and its check would be judged by it.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

impl Publisher {
    /// Arms a message's check. The check leaves at once, together with those of other callers.
    ///
    /// # Errors
    /// When the broker is away or blocked, when too much is unconfirmed, when the broker is known to
    /// refuse the message's destination, or when the message cannot be sent at all. Nothing was sent
    /// then, and the error gives the message back.
    pub fn arm(&self, message: Message) -> Result<Armed, Error> {
        self.arm_all(vec![message])
    }

    /// Arms the checks of 1 to 1,000 messages that one transaction sends.
    ///
    /// # Errors
    /// As those of [`arm`](Self::arm).
    pub fn arm_all(&self, mut messages: Vec<Message>) -> Result<Armed, Error> {
        if let Err(why) = self.complete(&mut messages) {
            return Err(why.giving_back(messages));
        }
        let lookups = match self.inner.destinations(&messages) {
            Ok(lookups) => lookups,
            Err(why) => return Err(why.giving_back(messages)),
        };
        let sizes = messages.iter().map(|message| message.body.len());
        let Some(share) = self.inner.budget.take(sizes) else {
            return Err(Error::overloaded().giving_back(messages));
        };
        let notice = self.inner.notices.notice(&messages);
        let arming = Some(notice.arming());
        let checked = messages.iter().map(|message| CheckedMessage {
            id: message.id,
            consumers: message.consumers.clone(),
            arming,
        });
        match Checks::submit(&self.inner, checked) {
            Ok(checks) => {
                let checks = checks.with_lookups(lookups);
                let (publisher, armed_at) = (Arc::clone(&self.inner), Instant::now());
                let batch = Batch { publisher, messages, share, notice, armed_at };
                Ok(Armed { batch, checks })
            }
            Err(why) => Err(Error::of_publisher(&why).giving_back(messages)),
        }
    }

    /// Fills in the publisher's defaults, and checks that the messages can be sent.
    fn complete(&self, messages: &mut [Message]) -> Result<(), Error> {
        if messages.is_empty() || messages.len() > MAX_ENTRIES {
            let count = messages.len();
            let text = format!("{count} messages: a transaction can send 1 to {MAX_ENTRIES}");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let sizes = messages.iter().map(|message| message.body.len());
        if let Some(why) = self.inner.budget.is_exceeded_by(sizes) {
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let newest = clock::now().after(MAX_CLOCK_SKEW);
        let window = Window { oldest: UnixMillis::EPOCH, newest };
        for message in messages {
            self.inner.complete(message);
            let problem = if window.admit(message.id).is_err() {
                Some(
                    "its id is of the future: is the clock right on the machine that made the id?"
                        .to_owned(),
                )
            } else {
                message.problem()
            };
            if let Some(why) = problem {
                let text = format!("message {}: {why}", message.id);
                return Err(Error::new(ErrorKind::Invalid, text).about(message.id));
            }
        }
        Ok(())
    }
}

impl Armed {
    /// Waits until the broker holds the checks, for at most the arm timeout.
    ///
    /// # Errors
    /// When the broker does not, or has no exchange of this name; the error gives the messages back,
    /// to arm again.
    ///
    /// # Cancel safety
    /// When the future is dropped, nothing is sent.
    pub async fn held(mut self) -> Result<Held, Error> {
        match self.checks.wait(&self.batch.publisher).await {
            Ok(()) => {
                // Only the upstream's own store knows whether a dropped `Held` is committed.
                self.batch.notice.withhold();
                Ok(Held { batch: self.batch })
            }
            Err(why) => Err(Error::from(why).giving_back(self.batch.messages)),
        }
    }
}

impl Held {
    /// Declares that the messages are committed, in whatever store this upstream has.
    ///
    /// For upstreams without Postgres; with Postgres, [`begin`](Self::begin). Call it after the store
    /// has the data, and only if it has.
    pub fn committed(self) -> Committed {
        let (age, limit) = (self.batch.age(), self.batch.publisher.settings.longest_transaction);
        if age > limit {
            tracing::warn!(
                message_id = %self.batch.messages[0].id, age_ms = age.as_millis(),
                "committed later than the longest transaction allowed: if its check came due meanwhile, it was answered \"never committed\""
            );
        }
        fail::fail_point!("producer.committed", |_| std::process::abort());
        Committed { batch: self.batch }
    }
}

//! A message as its handler sees it.

use bytes::Bytes;
use countersign_amqp::{DeliveryTag, Properties};
use countersign_protocol::{Attempt, Headers, MessageId, Name, UnixMillis, header};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::failure::Failure;

/// A message that was delivered, and has not been processed before.
#[derive(Debug)]
pub struct Delivery {
    id: MessageId,
    raw: Raw,
}

/// A delivery as it came, whatever it is.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) delivery: countersign_amqp::Delivery,
    /// Its place among the deliveries that are held in memory.
    pub(crate) place: Option<OwnedSemaphorePermit>,
}

impl Delivery {
    pub(crate) fn new(id: MessageId, raw: Raw) -> Self {
        Self { id, raw }
    }

    pub(crate) fn into_raw(self) -> Raw {
        self.raw
    }

    /// The message's id: the same for every delivery and every attempt.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Which publish of the message this is; the first, if it does not say.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.raw.attempt().unwrap_or(Attempt::FIRST)
    }

    /// How often a handler of this consumer has failed on it already.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.raw.failures()
    }

    /// Who sent it, if it says.
    #[must_use]
    pub fn upstream(&self) -> Option<Name> {
        self.raw.upstream()
    }

    /// When this attempt was published, on the upstream's clock, if it says.
    #[must_use]
    pub fn published_at(&self) -> Option<UnixMillis> {
        self.raw.published_at()
    }

    /// The exchange that it was published to; also after it waited in a delay queue.
    #[must_use]
    pub fn exchange(&self) -> &str {
        self.raw.origin(header::EXCHANGE, &self.raw.delivery.exchange)
    }

    /// The key that it was published with; also after it waited in a delay queue.
    #[must_use]
    pub fn key(&self) -> &str {
        self.raw.origin(header::KEY, &self.raw.delivery.key)
    }

    /// What kind of message it is (the AMQP property `type`), if it says.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.raw.delivery.properties.kind.as_deref()
    }

    /// How its body is written (the AMQP property `content_type`), if it says.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.raw.delivery.properties.content_type.as_deref()
    }

    /// How its body is encoded, such as `gzip`, if it says.
    #[must_use]
    pub fn content_encoding(&self) -> Option<&str> {
        self.raw.delivery.properties.content_encoding.as_deref()
    }

    /// Which request it answers, or by which its answer is to be known, if it says.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.raw.delivery.properties.correlation_id.as_deref()
    }

    /// Where its answer is to be sent to, if it says.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.raw.delivery.properties.reply_to.as_deref()
    }

    /// Its priority, if it says.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.raw.delivery.properties.priority
    }

    /// After how many milliseconds it was to expire, as its publisher wrote it, if it says; also after
    /// it waited in a delay queue, where it does not expire.
    #[must_use]
    pub fn expiration(&self) -> Option<&str> {
        let properties = &self.raw.delivery.properties;
        properties.expiration.as_deref().or_else(|| self.headers().text(header::EXPIRATION))
    }

    /// The broker's user that published it, if it says; also after it waited in a delay queue. Only at
    /// the first delivery has the broker checked it.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        let properties = &self.raw.delivery.properties;
        properties.user_id.as_deref().or_else(|| self.headers().text(header::USER_ID))
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.raw.delivery.properties.headers
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.raw.delivery.body
    }

    /// Its body, read as JSON.
    ///
    /// # Errors
    /// [`Failure::Reject`] with the parser's reason: the same bytes are no better later.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(self.body())
            .map_err(|e| Failure::Reject(format!("the body is not the JSON it should be: {e}")))
    }
}

impl Raw {
    pub(crate) fn tag(&self) -> DeliveryTag {
        self.delivery.tag
    }

    pub(crate) fn message_id(&self) -> Option<&str> {
        self.delivery.properties.message_id.as_deref()
    }

    pub(crate) fn attempt(&self) -> Option<Attempt> {
        let number = self.headers().integer(header::ATTEMPT)?;
        Attempt::from_number(u32::try_from(number).ok()?)
    }

    pub(crate) fn failures(&self) -> u32 {
        let number = self.headers().integer(header::FAILURES).unwrap_or(0);
        u32::try_from(number.max(0)).unwrap_or(u32::MAX)
    }

    pub(crate) fn upstream(&self) -> Option<Name> {
        self.delivery.properties.app_id.as_deref()?.parse().ok()
    }

    pub(crate) fn published_at(&self) -> Option<UnixMillis> {
        self.headers().integer(header::PUBLISHED_AT_MS).map(UnixMillis::from_ms)
    }

    /// What it is sent on with: its properties, and where it was published first.
    pub(crate) fn into_copy(self) -> (Properties, Bytes) {
        let exchange = self.origin(header::EXCHANGE, &self.delivery.exchange).to_owned();
        let key = self.origin(header::KEY, &self.delivery.key).to_owned();
        let mut properties = self.delivery.properties;
        let mut headers =
            properties.headers.with_text(header::EXCHANGE, &exchange).with_text(header::KEY, &key);
        // A copy that expired would be lost, or come back before its time.
        if let Some(expiration) = properties.expiration.take() {
            headers = headers.with_text(header::EXPIRATION, &expiration);
        }
        // The broker closes the channel of a publish in another user's name.
        if let Some(user_id) = properties.user_id.take() {
            headers = headers.with_text(header::USER_ID, &user_id);
        }
        properties.headers = headers;
        (properties, self.delivery.body)
    }

    fn origin<'a>(&'a self, header: &str, delivered: &'a str) -> &'a str {
        self.headers().text(header).unwrap_or(delivered)
    }

    fn headers(&self) -> &Headers {
        &self.delivery.properties.headers
    }
}

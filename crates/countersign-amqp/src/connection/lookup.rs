//! Whether an exchange is there.

use std::time::Duration;

use lapin::options::ExchangeDeclareOptions;
use lapin::protocol::constants;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use thiserror::Error;

use crate::connection::Connection;
use crate::error::{Cause, Error, within};

/// How long the broker may take. It knows its exchanges by heart.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the broker did not say whether an exchange is there.
#[derive(Clone, Debug, Error)]
#[error("whether exchange {exchange:?} is there is not known: {why}")]
pub struct NotLookedUp {
    exchange: String,
    why: String,
}

impl Connection {
    /// Whether an exchange is there. The question has a channel of its own, which the broker closes
    /// if there is none; the connection and its other channels go on.
    ///
    /// # Errors
    /// When the connection is away, the broker does not answer within 5 s, or the user may not ask
    /// (RabbitMQ 4.2.6 and 4.3.0 want the right to configure the exchange for it). The exchange may
    /// be there then.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn exchange_exists(&self, exchange: &str) -> Result<bool, NotLookedUp> {
        // The default exchange is always there, and the broker refuses to be asked for it.
        if exchange.is_empty() {
            return Ok(true);
        }
        self.look_up(exchange)
            .await
            .map_err(|error| NotLookedUp { exchange: exchange.to_owned(), why: error.to_string() })
    }

    async fn look_up(&self, exchange: &str) -> Result<bool, Error> {
        let name = ShortString::try_new(exchange)
            .map_err(|_| Error::NameTooLong { what: exchange.to_owned() })?;
        let epoch = self.epochs().borrow().clone().filter(|epoch| !epoch.is_ended());
        let ended = || Error::EpochEnded { why: "not connected".to_owned() };
        let channel = epoch.ok_or_else(ended)?.channel().await?;
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        // Of a passive declare the broker reads the name alone.
        let kind = ExchangeKind::Direct;
        let asking = channel.exchange_declare(name, kind, options, FieldTable::default());
        let answer = within(LOOKUP_TIMEOUT, "looking an exchange up", asking).await;
        match answer {
            Ok(()) => {
                close(&channel).await;
                Ok(true)
            }
            Err(error) => match error.refusal() {
                Some((Cause::NoExchange, _)) => Ok(false),
                _ => Err(error),
            },
        }
    }
}

async fn close(channel: &Channel) {
    let closing = channel.close(constants::REPLY_SUCCESS, "looked up".into());
    // A channel that does not close in time goes with its connection.
    let _ = within(LOOKUP_TIMEOUT, "closing a channel", closing).await;
}

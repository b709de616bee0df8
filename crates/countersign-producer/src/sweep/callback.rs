//! The callback service, as the sweep sees it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use countersign_protocol::envelope::clean_reason;
use countersign_protocol::grpc::callback_client::CallbackClient;
use countersign_protocol::grpc::find_unconfirmed_request::{Message, SweepProgress};
use countersign_protocol::grpc::{FindUnconfirmedRequest, FindUnconfirmedResponse};
use countersign_protocol::{MessageId, Name};
use thiserror::Error;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::record::EnlistedMessage;
use crate::settings::ProducerSettings;
use crate::sweep::lag::Progress;

/// The callback service's address: `http://callback:50052`, or `https://…`.
#[derive(Clone)]
pub struct CallbackAddress(Endpoint);

/// Why a text is not a [`CallbackAddress`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is not the callback service's address: {why}; write http://HOST:PORT or https://HOST:PORT"
)]
pub struct InvalidCallback {
    text: String,
    why: String,
}

/// A host that is up accepts within a round trip, and TCP repeats a lost SYN after 1 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The callback service may wait 8 s for its confirm markers before it answers. After this deadline
/// the sweep asks again.
const DEADLINE: Duration = Duration::from_secs(10);

/// Asks the callback service.
#[derive(Clone, Debug)]
pub(crate) struct Callback {
    client: CallbackClient<Channel>,
}

/// The callback service's answer about some messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// Messages that a consumer has not confirmed and that the ledger has no row for: none of their
    /// checks has come due.
    pub(crate) ids: BTreeSet<MessageId>,
    /// How many of the others are older than the callback service keeps confirms.
    pub(crate) too_old: usize,
    /// Messages of which the callback service was told that they never committed.
    pub(crate) contradicted: BTreeSet<MessageId>,
}

impl Callback {
    /// Makes a client that connects with its first call. Call this within a Tokio runtime.
    pub(crate) fn new(address: &CallbackAddress) -> Self {
        let endpoint = address.0.clone().connect_timeout(CONNECT_TIMEOUT).timeout(DEADLINE);
        Self { client: CallbackClient::new(endpoint.connect_lazy()) }
    }

    /// Which of these messages of the publisher's upstream lack a confirm and an overdue row.
    ///
    /// # Errors
    /// When the callback service does not answer: the reason, for a person.
    pub(crate) async fn find_forgotten(
        &self,
        settings: &ProducerSettings,
        messages: &[EnlistedMessage],
    ) -> Result<Forgotten, String> {
        let message = |message: &EnlistedMessage| Message {
            message_id: message.id.to_string(),
            consumers: message.consumers.iter().map(Name::to_string).collect(),
        };
        let messages_asked = messages.iter().map(message).collect();
        let response = self.ask(settings, messages_asked, None).await?;
        Ok(read(&response, messages))
    }

    /// Tells how far the sweep is, and asks nothing.
    ///
    /// # Errors
    /// When the callback service does not answer: the reason, for a person.
    pub(crate) async fn tell(
        &self,
        settings: &ProducerSettings,
        progress: &Progress,
    ) -> Result<(), String> {
        let in_ms = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let sweep = SweepProgress {
            check_delay_ms: in_ms(settings.tier.delay()),
            behind_ms: in_ms(progress.behind),
            walk_at_ms: progress.walk.map_or(0, |(at, _)| at.ms()),
            walk_began_at_ms: progress.walk.map_or(0, |(_, began)| began.ms()),
        };
        self.ask(settings, Vec::new(), Some(sweep)).await.map(|_| ())
    }

    async fn ask(
        &self,
        settings: &ProducerSettings,
        messages: Vec<Message>,
        sweep: Option<SweepProgress>,
    ) -> Result<FindUnconfirmedResponse, String> {
        let mut request = Request::new(FindUnconfirmedRequest {
            upstream: settings.upstream.to_string(),
            messages,
            database: settings.database.map(|id| id.to_string()).unwrap_or_default(),
            sweep,
        });
        request.set_timeout(DEADLINE);
        if let Some(token) = &settings.token {
            token.show(request.metadata_mut());
        }
        let mut client = self.client.clone();
        let response = client.find_unconfirmed(request).await.map_err(|status| why(&status))?;
        Ok(response.into_inner())
    }
}

/// Only ids that the sweep asked about count: any other may be another upstream's.
fn read(response: &FindUnconfirmedResponse, asked: &[EnlistedMessage]) -> Forgotten {
    let asked: BTreeSet<MessageId> = asked.iter().map(|message| message.id).collect();
    let of_these = |ids: &[String]| -> BTreeSet<MessageId> {
        ids.iter().filter_map(|id| id.parse().ok()).filter(|id| asked.contains(id)).collect()
    };
    Forgotten {
        ids: of_these(&response.unconfirmed),
        too_old: response.too_old.len(),
        contradicted: of_these(&response.contradicted),
    }
}

fn why(status: &Status) -> String {
    let said = clean_reason(status.message());
    match status.code() {
        Code::Unimplemented => {
            "the callback service does not know FindUnconfirmed: is it older than this program, or is this the address of something else?".to_owned()
        }
        Code::InvalidArgument => format!("the callback service refuses the question: {said}"),
        code => format!("the callback service does not answer: {code:?}, {said}"),
    }
}

impl FromStr for CallbackAddress {
    type Err = InvalidCallback;

    fn from_str(text: &str) -> Result<Self, InvalidCallback> {
        let invalid = |why: String| InvalidCallback { text: text.to_owned(), why };
        let endpoint =
            Endpoint::from_shared(text.trim().to_owned()).map_err(|e| invalid(e.to_string()))?;
        let endpoint = match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
            (Some("http"), Some(_)) => endpoint,
            (Some("https"), Some(_)) => endpoint
                .tls_config(ClientTlsConfig::new().with_native_roots())
                .map_err(|e| invalid(e.to_string()))?,
            _ => return Err(invalid("it begins with neither http:// nor https://".to_owned())),
        };
        Ok(Self(endpoint))
    }
}

impl fmt::Debug for CallbackAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0.uri(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_or_https_and_the_error_says_so() {
        for good in ["http://callback:50052", " https://callback ", "http://127.0.0.1:1"] {
            good.parse::<CallbackAddress>().unwrap();
        }
        for bad in ["", "callback", "callback:50052", "amqp://callback", "http://"] {
            let error = bad.parse::<CallbackAddress>().unwrap_err().to_string();
            assert!(error.contains("write http://HOST:PORT"), "{bad}: {error}");
        }
    }

    #[test]
    fn only_what_was_asked_about_is_believed() {
        let message = |id| EnlistedMessage { id, consumers: Vec::new() };
        let [asked, other] = [MessageId::generate(), MessageId::generate()];
        let response = FindUnconfirmedResponse {
            unconfirmed: vec![other.to_string(), "nonsense".to_owned(), asked.to_string()],
            too_old: vec![other.to_string()],
            contradicted: vec![asked.to_string(), other.to_string()],
        };
        let forgotten = read(&response, &[message(asked)]);
        assert_eq!(
            forgotten,
            Forgotten { ids: [asked].into(), too_old: 1, contradicted: [asked].into() }
        );
    }
}

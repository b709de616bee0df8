//! `countersign ask`: asking an upstream for a message past the callback service.

use clap::Args;
use countersign_protocol::grpc::RequestResendRequest;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_protocol::{DatabaseId, MessageId};
use serde_json::json;

use crate::connect::address::{Address, refused};
use crate::connect::credentials::Credentials;
use crate::terminal::clock::clock;
use crate::terminal::output::Output;

/// The flags of `countersign ask`.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// The message's id: a UUIDv7
    #[arg(value_name = "MESSAGE_ID")]
    id: MessageId,
    /// The address of the upstream that has the message
    #[arg(
        long,
        env = "COUNTERSIGN_UPSTREAM",
        default_value = "http://localhost:50051",
        value_name = "URL"
    )]
    upstream: Address,
    /// The database that the message's transaction commits in: `countersign status` says it. Without it
    /// an upstream that has a database never says NEVER_COMMITTED: the message may not be its own
    #[arg(long, value_name = "UUID")]
    database: Option<DatabaseId>,
    /// The reason, for the upstream's log
    #[arg(long, default_value = "asked by hand", value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    credentials: Credentials,
}

/// Below the flags in `--help`.
pub(crate) const HELP: &str = "\
Outcomes:
  REPUBLISHED      the upstream sent the message again, watched by a fresh check
  NEVER_COMMITTED  the message's transaction did not commit and never will
  IN_PROGRESS      the message's transaction may still commit: ask again later
  WITHDRAWN        the upstream no longer wants the message sent
  NOT_PUBLISHED    the upstream could not publish: unroutable, refused, or the broker is away
  UNKNOWN          the upstream cannot tell
  MISDIRECTED      this upstream has another database than the one that is meant

Example:
  countersign ask 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88 --upstream http://localhost:50051";

/// The attempt number of a resend that no replica of the callback service asked for: the upstream
/// publishes the message whatever it was asked for before.
const BY_HAND: u32 = 0;

impl Ask {
    /// Asks the upstream.
    ///
    /// # Errors
    /// When the upstream does not answer.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Output> {
        let message_id = self.id.to_string();
        let request = RequestResendRequest {
            message_id: message_id.clone(),
            attempt: BY_HAND,
            missing_consumers: Vec::new(),
            reason: self.reason,
            upstream: String::new(),
            database: self.database.map(|id| id.to_string()).unwrap_or_default(),
        };
        let mut client = UpstreamClient::new(self.upstream.connect().await?);
        let answer = client.request_resend(self.credentials.call(request)?).await;
        let answer = answer.map_err(|e| refused(&e))?.into_inner();
        let outcome = answer.outcome().as_str_name();
        let json = json!({ "message_id": message_id, "outcome": outcome,
            "reason": answer.reason, "retry_after_ms": answer.retry_after_ms,
            "published_at_ms": answer.published_at_ms, "attempt": answer.attempt });
        Output::json_or_text(as_json, &json, || {
            let mut text = outcome.to_owned();
            if !answer.reason.is_empty() {
                text = format!("{text}: {}", answer.reason);
            }
            if answer.retry_after_ms > 0 {
                text = format!("{text}\n  ask again after {} ms", answer.retry_after_ms);
            }
            if answer.published_at_ms > 0 {
                let at = clock(answer.published_at_ms);
                text = format!("{text}\n  published {at}, as attempt {}", answer.attempt);
            }
            text
        })
    }
}

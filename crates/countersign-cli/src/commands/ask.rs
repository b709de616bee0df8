//! `countersign ask`: asking an upstream for a message by hand.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::RequestResendRequest;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use serde_json::json;

use crate::connect::address::{Address, refused};
use crate::connect::credentials::Credentials;
use crate::terminal::clock::clock;
use crate::terminal::output::Output;

/// Asked by hand: done whatever was asked before.
const BY_HAND: u32 = 0;

/// What is printed.
///
/// # Errors
/// When the upstream does not answer.
pub(crate) async fn ask(
    id: MessageId,
    upstream: &Address,
    reason: &str,
    credentials: &Credentials,
    as_json: bool,
) -> anyhow::Result<Output> {
    let request = RequestResendRequest {
        message_id: id.to_string(),
        attempt: BY_HAND,
        missing_consumers: Vec::new(),
        reason: reason.to_owned(),
    };
    let mut client = UpstreamClient::new(upstream.connect().await?);
    let answer = client
        .request_resend(credentials.call(request)?)
        .await
        .map_err(|e| refused(&e))?
        .into_inner();
    let outcome = answer.outcome().as_str_name();
    if as_json {
        let answer = json!({ "message_id": id.to_string(), "outcome": outcome,
            "reason": answer.reason, "retry_after_ms": answer.retry_after_ms,
            "published_at_ms": answer.published_at_ms, "attempt": answer.attempt });
        return Ok(Output::good(answer.to_string()));
    }
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
    Ok(Output::good(text))
}

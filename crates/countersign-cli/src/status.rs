//! `countersign status`: what became of a message.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::callback_client::CallbackClient;
use countersign_protocol::grpc::{GetMessageRequest, GetMessageResponse};
use serde_json::{Value, json};

use crate::address::{Address, refused};
use crate::timeline;

/// What is printed.
///
/// # Errors
/// When the callback service does not answer.
pub(crate) async fn status(
    id: MessageId,
    callback: &Address,
    as_json: bool,
) -> anyhow::Result<String> {
    let request = GetMessageRequest { message_id: id.to_string() };
    let mut client = CallbackClient::new(callback.connect().await?);
    let message = client.get_message(request).await.map_err(|e| refused(&e))?.into_inner();
    Ok(if as_json { json(&message).to_string() } else { timeline::print(id, &message) })
}

fn json(message: &GetMessageResponse) -> Value {
    let GetMessageResponse {
        message_id,
        state,
        reason,
        confirms,
        history,
        reports,
        upstream,
        consumers,
        resends,
        next_at_ms,
        cause,
        actions,
    } = message;
    let confirms: Vec<Value> = confirms
        .iter()
        .map(|confirm| {
            json!({ "consumer": confirm.consumer, "recorded_at_ms": confirm.recorded_at_ms,
                "attempt": confirm.attempt })
        })
        .collect();
    let history: Vec<Value> = history
        .iter()
        .map(|event| {
            json!({ "at_ms": event.at_ms, "from_state": event.from_state,
                "to_state": event.to_state, "cause": event.cause, "reason": event.reason,
                "resends": event.resends })
        })
        .collect();
    let reports: Vec<Value> = reports
        .iter()
        .map(|report| {
            json!({ "consumer": report.consumer, "outcome": report.outcome,
                "reason": report.reason, "until_ms": report.until_ms,
                "recorded_at_ms": report.recorded_at_ms })
        })
        .collect();
    let actions: Vec<Value> = actions
        .iter()
        .map(|action| {
            json!({ "at_ms": action.at_ms, "action": action.action, "who": action.who,
                "why": action.why, "job_id": action.job_id, "result": action.result })
        })
        .collect();
    json!({ "message_id": message_id, "state": state, "cause": cause, "reason": reason, "upstream": upstream,
        "consumers": consumers, "resends": resends, "next_at_ms": next_at_ms,
        "confirms": confirms, "reports": reports, "history": history,
        "actions": actions })
}

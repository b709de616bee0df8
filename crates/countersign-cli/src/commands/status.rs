//! `countersign status`: what became of a message.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::GetMessageRequest;

use crate::commands::timeline;
use crate::connect::address::refused;
use crate::connect::callback::Callback;
use crate::terminal::output::Output;

/// What is printed.
///
/// # Errors
/// When the callback service does not answer.
pub(crate) async fn status(
    id: MessageId,
    callback: &Callback,
    as_json: bool,
) -> anyhow::Result<Output> {
    let request = GetMessageRequest { message_id: id.to_string() };
    let mut client = callback.client().await?;
    let message = client.get_message(request).await.map_err(|e| refused(&e))?.into_inner();
    Output::json_or_text(as_json, &message, || timeline::print(id, &message))
}

//! `countersign status`: what became of a message.

use countersign_protocol::MessageId;
use countersign_protocol::grpc::GetMessageRequest;
use countersign_protocol::grpc::callback_client::CallbackClient;

use crate::address::{Address, refused};
use crate::timeline;
use crate::told::Told;

/// What is printed.
///
/// # Errors
/// When the callback service does not answer.
pub(crate) async fn status(
    id: MessageId,
    callback: &Address,
    as_json: bool,
) -> anyhow::Result<Told> {
    let request = GetMessageRequest { message_id: id.to_string() };
    let mut client = CallbackClient::new(callback.connect().await?);
    let message = client.get_message(request).await.map_err(|e| refused(&e))?.into_inner();
    Told::either(as_json, &message, || timeline::print(id, &message))
}

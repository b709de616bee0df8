//! `countersign status`: the state and the story of one message.

use clap::Args;
use countersign_protocol::MessageId;
use countersign_protocol::grpc::GetMessageRequest;

use crate::commands::{states, timeline};
use crate::connect::address::refused;
use crate::connect::callback::Callback;
use crate::terminal::output::Output;

/// The flags of `countersign status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The message's id: a UUIDv7
    #[arg(value_name = "MESSAGE_ID")]
    id: MessageId,
    #[command(flatten)]
    callback: Callback,
}

/// Below the flags in `--help`.
pub(crate) fn help() -> String {
    format!(
        "{}\n\nExample:\n  countersign status 01936f4e-8c1a-7c3e-9b5e-3f2d1c0b9a88",
        states::of_messages()
    )
}

impl Status {
    /// Asks the callback service.
    ///
    /// # Errors
    /// When the callback service does not answer.
    pub(crate) async fn run(self, as_json: bool) -> anyhow::Result<Output> {
        let request = GetMessageRequest { message_id: self.id.to_string() };
        let mut client = self.callback.client().await?;
        let message = client.get_message(request).await.map_err(|e| refused(&e))?.into_inner();
        Output::json_or_text(as_json, &message, || timeline::print(self.id, &message))
    }
}

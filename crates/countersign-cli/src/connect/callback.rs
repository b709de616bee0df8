//! Reaching the callback service.

use clap::Args;
use countersign_protocol::grpc::callback_client::CallbackClient;
use tonic::transport::Channel;

use crate::connect::address::Address;

/// A client of the callback service.
pub(crate) type Client = CallbackClient<Channel>;

/// `--callback`.
#[derive(Debug, Args)]
pub(crate) struct Callback {
    /// The callback service's address
    #[arg(
        long = "callback",
        env = "COUNTERSIGN_CALLBACK",
        default_value = "http://localhost:50052",
        value_name = "URL"
    )]
    address: Address,
}

impl Callback {
    /// Connects.
    ///
    /// # Errors
    /// When no service answers at the address.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(CallbackClient::new(self.address.connect().await?))
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

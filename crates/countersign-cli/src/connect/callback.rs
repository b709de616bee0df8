//! The callback service, as commands reach it.

use clap::Args;
use countersign_protocol::grpc::callback_client::CallbackClient;
use tonic::transport::Channel;

use crate::connect::address::Address;

/// A client of it.
pub(crate) type Client = CallbackClient<Channel>;

/// Where it is.
#[derive(Debug, Args)]
pub(crate) struct Callback {
    /// Where the callback service is
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
    /// When nobody answers there.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(CallbackClient::new(self.address.connect().await?))
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

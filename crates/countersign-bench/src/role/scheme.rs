//! The inputs and outputs of a scheme: the producer and the consumer play each scheme alike.

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use countersign_amqp::Address;
use countersign_protocol::Tier;

use crate::scheme::Scheme;

/// The producer's arguments.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProducerArguments {
    #[arg(long)]
    pub(crate) scheme: Scheme,
    #[arg(long)]
    pub(crate) amqp_url: Address,
    #[arg(long)]
    pub(crate) callers: u32,
    #[arg(long)]
    pub(crate) tier: Tier,
    /// The port on 127.0.0.1 on which the upstream answers `RequestResend`.
    #[arg(long)]
    pub(crate) port: u16,
}

/// The consumer's arguments.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConsumerArguments {
    #[arg(long)]
    pub(crate) scheme: Scheme,
    #[arg(long)]
    pub(crate) amqp_url: Address,
    #[arg(long)]
    pub(crate) prefetch: u16,
}

/// A scheme, as a caller sees it.
pub(super) trait Sending: Clone + Send + Sync + 'static {
    /// Sends a message, and returns when a caller of this scheme may think that its work is done.
    fn send(&self, body: Bytes) -> impl Future<Output = Result<()>> + Send;
}

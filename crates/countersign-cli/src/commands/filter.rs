//! The overdue messages that the flags match.

use std::time::Duration;

use clap::Args;
use countersign_protocol::grpc::OverdueFilter;

use crate::terminal::clock::{ms, written};

/// A message matches if it matches every given flag.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// The message is in one of these states, such as parked,conflict; `countersign overdue --help` lists all
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    state: Vec<String>,
    /// This upstream sent the message
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// This consumer has to confirm the message, alone or among others
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// The message is in its state for one of these causes, such as rejected or resends_used_up
    #[arg(long, value_delimiter = ',', value_name = "CAUSE")]
    cause: Vec<String>,
    /// The message is overdue for at least SPAN, such as 10m
    #[arg(long, value_name = "SPAN", value_parser = written)]
    older_than: Option<Duration>,
    /// The message is overdue for at most SPAN
    #[arg(long, value_name = "SPAN", value_parser = written)]
    younger_than: Option<Duration>,
}

impl Filter {
    /// Whether no flag is given.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { state, upstream, consumer, cause, older_than, younger_than } = self;
        state.is_empty()
            && upstream.is_none()
            && consumer.is_none()
            && cause.is_empty()
            && older_than.is_none()
            && younger_than.is_none()
    }

    /// The filter of the API.
    pub(crate) fn wire(&self) -> OverdueFilter {
        OverdueFilter {
            states: self.state.clone(),
            upstream: self.upstream.clone().unwrap_or_default(),
            consumer: self.consumer.clone().unwrap_or_default(),
            causes: self.cause.clone(),
            older_than_ms: self.older_than.map_or(0, ms),
            younger_than_ms: self.younger_than.map_or(0, ms),
        }
    }
}

//! Which overdue messages are meant.

use std::time::Duration;

use clap::Args;
use countersign_protocol::grpc::OverdueFilter;

use crate::terminal::clock::{ms, written};

/// All that every given flag applies to.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// In one of these states: waiting, asking, parked, conflict, or a closed one
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    state: Vec<String>,
    /// Sent by this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// To be confirmed by this consumer, among others
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// For one of these causes, such as rejected or resends_used_up
    #[arg(long, value_delimiter = ',', value_name = "CAUSE")]
    cause: Vec<String>,
    /// Overdue for at least this long, such as 10m
    #[arg(long, value_name = "SPAN", value_parser = written)]
    older_than: Option<Duration>,
    /// Overdue for at most this long
    #[arg(long, value_name = "SPAN", value_parser = written)]
    younger_than: Option<Duration>,
}

impl Filter {
    /// Whether nothing was said.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { state, upstream, consumer, cause, older_than, younger_than } = self;
        state.is_empty()
            && upstream.is_none()
            && consumer.is_none()
            && cause.is_empty()
            && older_than.is_none()
            && younger_than.is_none()
    }

    /// As the callback service takes it.
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

//! The callback service: records confirms, looks up the checks that come due, and asks the upstreams
//! of unconfirmed messages to send them again.
//!
//! The rooms, in the order of a message's life:
//!
//! - `intake`: from the broker into the ledger. Confirms, checks that come due and rolled-back notices
//!   are read and stored; what cannot be read goes to quarantine.
//! - `rules`: what is decided, without a clock, a database or a network. The verdict on an overdue
//!   message, the weight of an upstream's answer, budgets, the circuit breaker, jobs.
//! - `ledger`: all the SQL.
//! - `heal`: from the ledger to the upstreams. Overdue messages are judged and asked for, the answers
//!   written down, jobs carried out.
//! - `watch`: what is known beyond one row. Markers, queue depths, the consumers' progress.
//! - `api`: the gRPC service for operators and sweeps, in plain values.

mod settings;

mod service;

mod workers;

mod parts;

mod intake;

mod rules;

mod ledger;

mod heal;

mod watch;

mod api;

mod upkeep;

mod horizon;

mod log;

pub use countersign_management::{InvalidManagementUrl, ManagementUrl};
pub use heal::address::{InvalidUpstream, UpstreamAddress};
pub use heal::calls::Timing;
pub use rules::budget::Pacing;
pub use rules::overdue::Policy;
pub use service::{Error as ServiceError, Service};
pub use settings::{Config, SETTINGS};

//! The callback service: records confirms, looks up the checks that come due, and asks the upstreams
//! of unconfirmed messages to send them again.
//!
//! To be read in the order of a message's life: `confirms`, `checks` and `rolled_back` notices are taken in from the broker
//! (`intake`) and stored in the `ledger`; what is `overdue` is judged (`verdict`), its upstream asked
//! (`resend`, `upstreams`), and the `answer` weighed. What cannot be read goes to `quarantine`, and
//! `admin` tells a person what became of a message, and an upstream's `sweep` what
//! nobody would ask for.

mod settings;

mod service;

mod intake;

mod confirms;

mod checks;

mod rolled_back;

mod quarantine;

mod overdue;

mod ledger;

mod verdict;

mod standing;

mod markers;

mod depths;

mod management;

mod consumers;

mod resend;

mod upstreams;

mod breaker;

mod pace;

mod tallies;

mod list_upstreams;

mod answer;

mod filter;

mod page;

mod browse;

mod job;

mod job_request;

mod jobs;

mod admin;

mod sweep;

mod upkeep;

mod horizon;

mod patience;

mod log;

pub use management::{InvalidManagementUrl, ManagementUrl};
pub use overdue::Policy;
pub use pace::Pacing;
pub use resend::Timing;
pub use service::{Error as ServiceError, Service};
pub use settings::{Config, SETTINGS};
pub use upstreams::{InvalidUpstream, UpstreamAddress};

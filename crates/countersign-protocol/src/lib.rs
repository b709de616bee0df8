//! What the parties of Countersign say to each other, and how it is written down.
//!
//! Ids, the check, confirm and rolled-back envelopes, message headers, the broker's topology as plain data and
//! the gRPC types. There is no socket, no runtime and no database in here, so anything that can
//! compile Rust can read and write the wire contract.

pub mod time;

pub mod id;

pub mod window;

pub mod attempt;

pub mod name;

pub mod tier;

pub mod envelope;

mod layout;

mod refusal;

pub mod arming_id;

pub mod check;

pub mod confirm;

pub mod rolled_back;

pub mod marker;

pub mod header;

pub mod topology;

pub mod grpc;

pub mod token;

pub use arming_id::ArmingId;
pub use attempt::Attempt;
pub use check::Check;
pub use confirm::{Confirm, Outcome};
pub use envelope::{Refused, Unreadable};
pub use header::{HeaderValue, Headers};
pub use id::MessageId;
pub use marker::Marker;
pub use name::Name;
pub use rolled_back::RolledBack;
pub use tier::Tier;
pub use time::UnixMillis;
pub use token::Token;
pub use topology::Topology;
pub use window::{OutsideWindow, Window};

//! What the parties of Countersign say to each other, and how it is written down.
//!
//! Ids, the check, confirm and rolled-back envelopes, message headers, the broker's topology as plain data and
//! the gRPC types. There is no socket, no runtime and no database in here, so anything that can
//! compile Rust can read and write the wire contract.

// Values: a moment, an id and the window of ids that a party takes, names, numbers.
pub mod arming_id;
pub mod attempt;
pub mod database_id;
pub mod id;
mod id_generator;
pub mod name;
pub mod tier;
pub mod time;
pub mod window;

// Envelopes: what checks, confirms and rolled-back notices share, and what each has of its own. Markers
// and holdings travel among confirms.
pub mod check;
pub mod confirm;
pub mod envelope;
pub mod holdings;
mod layout;
mod limits;
pub mod marker;
mod refusal;
pub mod rolled_back;

// Around the body: headers, exchanges and queues, the gRPC types and the token of their calls.
pub mod grpc;
pub mod header;
pub mod token;
pub mod topology;

pub use arming_id::ArmingId;
pub use attempt::Attempt;
pub use check::Check;
pub use confirm::{Confirm, Outcome};
pub use database_id::DatabaseId;
pub use envelope::{Refused, Unreadable};
pub use header::{HeaderValue, Headers};
pub use holdings::Holdings;
pub use id::MessageId;
pub use marker::Marker;
pub use name::Name;
pub use rolled_back::RolledBack;
pub use tier::Tier;
pub use time::UnixMillis;
pub use token::Token;
pub use topology::Topology;
pub use window::{OutsideWindow, Window};

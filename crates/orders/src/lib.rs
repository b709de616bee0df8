//! The example upstream, written as a user would write it: takes orders, and tells the world.

mod config;

mod place;

mod order;

pub mod grpc;

mod serve;

pub use config::{Config, SETTINGS};
pub use serve::serve;

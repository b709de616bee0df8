//! The gRPC types of `proto/orders/v1`.

#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::must_use_candidate,
    clippy::semicolon_if_nothing_returned,
    reason = "generated from the .proto file, which carries the documentation"
)]
mod generated {
    tonic::include_proto!("orders.v1");
}

pub use generated::*;

/// The descriptor set of the package, for server reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/orders.v1.bin"));

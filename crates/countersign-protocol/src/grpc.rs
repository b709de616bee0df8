//! The gRPC types of `proto/countersign/v1`.

#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::must_use_candidate,
    clippy::semicolon_if_nothing_returned,
    reason = "generated from the .proto files, which carry the documentation"
)]
mod generated {
    tonic::include_proto!("countersign.v1");
}

pub use generated::*;

/// The descriptor set of the package, for server reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/countersign.v1.bin"));

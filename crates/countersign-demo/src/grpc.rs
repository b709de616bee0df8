//! The gRPC client of `proto/orders/v1`.

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::must_use_candidate,
    clippy::semicolon_if_nothing_returned,
    reason = "generated from the .proto files, which carry the documentation"
)]
mod generated {
    tonic::include_proto!("orders.v1");
}

pub(crate) use generated::*;

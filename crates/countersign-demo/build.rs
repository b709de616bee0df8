//! Compiles the example's gRPC contract with a protoc written in Rust: nothing has to be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto/orders");
    let files = protox::compile(["orders/v1/orders.proto"], ["../../proto"])?;
    tonic_prost_build::configure().build_server(false).build_transport(false).compile_fds(files)?;
    Ok(())
}

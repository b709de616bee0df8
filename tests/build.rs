//! Makes a client for the example's gRPC interface: the tests know it as any user does.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto/orders");
    let files = protox::compile(["orders/v1/orders.proto"], ["../proto"])?;
    tonic_prost_build::configure().build_transport(false).build_server(false).compile_fds(files)?;
    Ok(())
}

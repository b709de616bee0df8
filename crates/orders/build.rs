//! Compiles the example's gRPC contract with a protoc written in Rust: nothing has to be installed.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto/orders");
    println!("cargo:rerun-if-changed=../../migrations/orders");
    let files = protox::compile(["orders/v1/orders.proto"], ["../../proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("orders.v1.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    Ok(())
}

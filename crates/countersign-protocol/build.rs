//! Compiles the gRPC contract with a protoc written in Rust: nothing has to be installed.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from("../../proto");
    println!("cargo:rerun-if-changed=../../proto/countersign");
    let files = protox::compile(
        ["countersign/v1/upstream.proto", "countersign/v1/callback.proto"],
        [proto],
    )?;
    let descriptor = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?)
        .join("countersign.v1.bin");
    std::fs::write(descriptor, prost_encode(&files))?;
    tonic_prost_build::configure()
        .build_transport(false)
        // What a server does not have is UNIMPLEMENTED: a client can tell, and a test's double says
        // only what its test is about.
        .generate_default_stubs(true)
        // As JSON, the fields have the names that they have in the .proto files, and a field that is
        // left out has its default, as on the wire.
        .type_attribute(".", "#[derive(serde::Deserialize, serde::Serialize)]")
        .message_attribute(".", "#[serde(default)]")
        .compile_fds(files)?;
    Ok(())
}

fn prost_encode(files: &impl protox::prost::Message) -> Vec<u8> {
    files.encode_to_vec()
}

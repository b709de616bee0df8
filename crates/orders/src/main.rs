//! `orders`: the example upstream.

use std::process::ExitCode;

use countersign_runtime::Program;
use orders::{Config, SETTINGS, serve};

const PROGRAM: Program = Program {
    name: "orders",
    about: "Takes orders over gRPC and announces each with a message that has to be confirmed.\n\nExample:\n  COUNTERSIGN_AMQP_URL=amqp://guest:guest@localhost:5672/%2f \\\n  COUNTERSIGN_DATABASE_URL=postgres://postgres@localhost/orders \\\n  orders --check-delay 5s",
    settings: SETTINGS,
};

fn main() -> ExitCode {
    countersign_runtime::run(PROGRAM, Config::read, serve)
}

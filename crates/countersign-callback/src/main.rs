//! `countersign-callback`: the callback service.

use std::process::ExitCode;

use anyhow::Context;
use countersign_callback::{Config, SETTINGS, Service, ServiceError};
use countersign_protocol::grpc::DESCRIPTOR;
use countersign_runtime::{Process, Program};
use tonic::service::Routes;

const PROGRAM: Program = Program {
    name: "countersign-callback",
    about: "Records confirms, looks up checks that come due, and asks upstreams to send again the messages that their consumers have not confirmed.\n\nExample:\n  COUNTERSIGN_AMQP_URL=amqp://guest:guest@localhost:5672/%2f \\\n  COUNTERSIGN_DATABASE_URL=postgres://postgres@localhost/callback \\\n  countersign-callback --upstreams orders=http://localhost:50051",
    settings: SETTINGS,
};

fn main() -> ExitCode {
    countersign_runtime::run(PROGRAM, Config::read, serve)
}

async fn serve(config: Config, process: Process) -> anyhow::Result<()> {
    let mut service = match Service::start(config, process.shutdown.clone()).await {
        Err(ServiceError::Stopped) => return Ok(()),
        started => started.context("cannot start")?,
    };
    let routes = Routes::new(service.admin());
    process.keep_ready(service.ready(), service.pulse());
    tokio::select! {
        served = process.serve_grpc(routes, &[DESCRIPTOR]) => served?,
        failed = service.failed() => return Err(failed.into()),
    }
    service.finish().await?;
    Ok(())
}
